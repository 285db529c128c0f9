"""OpenAI's own client, unmodified, against a running agent.

    openai_check.py BASE_URL GOLDEN_FOLDER

GOLDEN_FOLDER holds the golden cases of minilm-l6-v2-int8: text, tokens, and the vector that ONNX Runtime and Hugging
Face's tokenizers gave. Prints "checked N" or fails.
"""

import base64
import json
import math
import pathlib
import struct
import sys

import openai

MODEL = "minilm-l6-v2-int8"
SIZE = 384
checked = 0


def check(condition, what):
    global checked
    if not condition:
        raise SystemExit(f"FAILED {what}")
    checked += 1


def cosine(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True)) / math.hypot(*a) / math.hypot(*b)


def models(client):
    listed = {model.id: model for model in client.models.list()}
    check(MODEL in listed and listed[MODEL].object == "model" and listed[MODEL].created > 0, "models.list")
    check(client.models.retrieve(MODEL).id == MODEL, "models.retrieve")
    refused(openai.NotFoundError, "model_not_found", lambda: client.models.retrieve("no-such-model"))


def golden(client, folder):
    """As a string, as a list, as tokens, as base64 (the client's default) and as numbers: the same vector."""
    for path in sorted(pathlib.Path(folder).glob("*.json")):
        case = json.loads(path.read_text(encoding="utf-8"))
        forms = {
            "string": {"input": case["text"]},
            "list": {"input": [case["text"]]},
            "tokens": {"input": case["tokens"][1:-1]},
            "list of tokens": {"input": [case["tokens"][1:-1]]},
            "float": {"input": case["text"], "encoding_format": "float"},
            "dimensions": {"input": case["text"], "dimensions": SIZE},
        }
        for form, arguments in forms.items():
            reply = client.embeddings.create(model=MODEL, **arguments)
            vector = reply.data[0].embedding
            check(cosine(vector, case["vector"]) >= 0.999, f"{path.name} as {form}: the vector")
            check(len(vector) == SIZE and abs(math.hypot(*vector) - 1) < 1e-4, f"{path.name} as {form}: its length")
            check(reply.usage.prompt_tokens == reply.usage.total_tokens == len(case["tokens"]), f"{path.name} as {form}: usage")
            check(reply.model == MODEL and reply.object == "list" and reply.data[0].index == 0, f"{path.name} as {form}: the rest")
        raw = client.embeddings.with_raw_response.create(model=MODEL, input=case["text"], encoding_format="base64")
        text = json.loads(raw.content)["data"][0]["embedding"]
        values = struct.unpack(f"<{SIZE}f", base64.b64decode(text))
        check(cosine(values, case["vector"]) >= 0.999, f"{path.name}: base64 of little-endian f32")
        check("mast-request-id" in raw.headers and raw.headers["mast-provider"] == "cpu", "headers")


def order(client):
    """Many sentences of many lengths come back in their order, each the same as alone, and near what it means."""
    words = "the antenna on the north mast reports a high temperature and asks for somebody to look at it".split()
    texts = [" ".join(words[: 1 + n % len(words)]) + f" {n}" for n in range(100)]
    together = client.embeddings.create(model=MODEL, input=texts)
    check([item.index for item in together.data] == list(range(100)), "indices")
    alone = [client.embeddings.create(model=MODEL, input=text) for text in texts[:: 9]]
    for one, many in zip(alone, together.data[:: 9], strict=True):
        check(cosine(one.data[0].embedding, many.embedding) >= 0.999, f"{many.index} alone and among others")

    near = client.embeddings.create(model=MODEL, input=[
        "The radio unit is too hot.", "The transmitter overheats.", "My cat likes fish.", "A kitten eats salmon.",
    ]).data
    near = [item.embedding for item in near]
    for a, b, c in ((0, 1, 2), (1, 0, 3), (2, 3, 0), (3, 2, 1)):
        check(cosine(near[a], near[b]) > cosine(near[a], near[c]) + 0.1, f"{a} is nearer to {b} than to {c}")


def refused(kind, code, call):
    try:
        call()
    except kind as error:
        body = error.body
        check(isinstance(body, dict) and {"message", "type", "param", "code"} == set(body) and body["message"], f"{kind}: {body}")
        check(body["code"] == code, f"{kind}: {body}")
        return error
    raise SystemExit(f"FAILED no {kind}")


def refusals(client):
    def create(**arguments):
        return lambda: client.embeddings.create(**{"model": MODEL, "input": "x"} | arguments)

    refused(openai.NotFoundError, "model_not_found", create(model="no-such-model"))
    for wrong in ("", [], [""], [[]], [1, "x"], [2**31], ["x"] * 2049, "x" * 100_000):
        check(refused(openai.BadRequestError, None, create(input=wrong)).param == "input", f"param of {str(wrong)[:20]}")
    check(refused(openai.BadRequestError, None, create(dimensions=256)).param == "dimensions", "param")
    refused(openai.BadRequestError, None, create(encoding_format="hex"))
    refused(openai.BadRequestError, None, create(model="efficientnet-lite0-int8"))
    error = refused(openai.APIStatusError, "request_too_large", create(input=["x" * 60_000] * 200))
    check(error.status_code == 413, "413")
    refused(openai.PermissionDeniedError, "refused_by_policy", create(extra_headers={"mast-data-class": "no-such-class"}))
    refused(openai.NotFoundError, "unknown_url", lambda: client.completions.create(model=MODEL, prompt="x"))
    error = refused(openai.APIStatusError, "method_not_supported", lambda: client.delete("/embeddings", cast_to=object))
    check(error.status_code == 405, "405")


def main():
    base_url, folder = sys.argv[1:]
    client = openai.OpenAI(base_url=base_url, api_key="any", max_retries=0)
    models(client)
    golden(client, folder)
    order(client)
    refusals(client)
    print(f"checked {checked}")


main()
