"""Photos and a sentence to a running agent, against Pillow, Hugging Face's tokenizers and ONNX Runtime in this process.

    media_check.py HTTP_ADDRESS REPOSITORY PHOTOS

Every photo goes as it is, as PNG and as JPEG, to every model with [image]; the answer has to be that of the same pixels
resampled by Pillow. Both resample and decode JPEG with other rounding, so the best class may be another one only where the
two are closer than MARGIN, and a box overlaps its twin by 0.95. Prints "checked N" or fails.
"""

import io
import json
import math
import os
import sys
import tomllib
import urllib.request

import numpy as np
from PIL import Image

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "../../models/recipes"))
import golden

SIDES = {"crop", "stretch"}
# How far a logit may be off: as the golden cases have it for int8, where a level of a pixel can move an activation by a step.
MARGIN = {"int8": 0.3, "float32": 0.1}
checked = 0


def check(condition, what):
    global checked
    if not condition:
        raise SystemExit(f"FAILED {what}")
    checked += 1


def post(address, model, content_type, body):
    request = urllib.request.Request(
        f"http://{address}/v2/models/{model}/infer", body, {"Content-Type": content_type}, method="POST"
    )
    with urllib.request.urlopen(request) as reply:
        check(reply.headers["mast-request-id"] and reply.headers["mast-provider"] == "cpu", "headers")
        return json.load(reply)


def prepare(photo, image):
    """(tensor, x and y scale, x and y offset)."""
    if image["resize"] not in SIDES:
        raise SystemExit(f"no oracle for resize = {image['resize']}")
    left, top, width, height = 0, 0, *photo.size
    if image["resize"] == "crop":
        side = min(photo.size)
        left, top, width, height = (photo.width - side) // 2, (photo.height - side) // 2, side, side
    part = photo.crop((left, top, left + width, top + height))
    pixels = np.asarray(part.resize((image["width"], image["height"]), Image.Resampling.BICUBIC), np.float32)
    pixels = pixels[:, :, ::-1] if image["channels"] == "bgr" else pixels
    tensor = ((pixels - np.array(image["mean"], np.float32)) / np.array(image["std"], np.float32)).transpose(2, 0, 1)
    scale = np.array([width / image["width"], height / image["height"]] * 2)
    return tensor[None].astype(np.float32), scale, np.array([left, top] * 2)


def compare(name, got, run, config, labels, photo):
    tensor, scale, offset = prepare(photo, config["image"])
    outputs = golden.infer(run, {config["image"]["input"]: tensor})
    if "classify" in config:
        logits = outputs[config["classify"]["output"]][0].astype(np.float64)
        scores = np.exp(logits - logits.max())
        scores /= scores.sum()
        margin = MARGIN["int8" if name.split()[0].endswith("int8") else "float32"]
        first = got["labels"][0]
        expected = scores[first["index"]]
        check(first["label"] == labels[first["index"]], f"{name}: {first}")
        check(math.log(scores.max() / expected) <= margin, f"{name}: {first}, expected {labels[scores.argmax()]}")
        check(abs(math.log(first["score"] / expected)) <= margin, f"{name}: {first}, expected {expected:.3f}")
        check(len(got["labels"]) == config["classify"]["top"], f"{name}: {len(got['labels'])} labels")
    if "detect" in config:
        corner = np.array([photo.width, photo.height] * 2)
        for found in golden.nanodet(outputs, config["detect"], labels):
            if found["score"] < config["detect"]["score_threshold"] + 0.03:
                continue  # on either side of the threshold with other rounding
            box = np.clip(np.array(found["box"]) * scale + offset, 0, corner)
            best = max((golden.overlap(box, other["box"]), other["score"]) for other in got["boxes"] if other["label"] == found["label"])
            check(best[0] > 0.95 and abs(best[1] - found["score"]) < 0.03, f"{name}: {found} became {got['boxes']}")


def main():
    address, repository, photos = sys.argv[1:]
    for model in sorted(os.listdir(repository)):
        with open(os.path.join(repository, model, "model.toml"), "rb") as file:
            config = tomllib.load(file)
        if "image" not in config:
            continue
        with open(os.path.join(repository, model, "labels.txt"), encoding="utf-8") as file:
            labels = file.read().splitlines()
        run = golden.session(os.path.join(repository, model, "1/model.onnx"))
        for name in sorted(os.listdir(photos)):
            with open(os.path.join(photos, name), "rb") as file:
                original = file.read()
            photo = Image.open(io.BytesIO(original)).convert("RGB")
            kind = "image/jpeg" if name.endswith("jpg") else "image/png"
            compare(f"{model} {name}", post(address, model, kind, original), run, config, labels, photo)
            jpeg = io.BytesIO()
            photo.save(jpeg, "jpeg", quality=95)
            photo = Image.open(io.BytesIO(jpeg.getvalue())).convert("RGB")
            got = post(address, model, "image/jpeg; q=1", jpeg.getvalue())
            compare(f"{model} {name} as JPEG", got, run, config, labels, photo)
    text = post(address, "minilm-l6-v2-int8", "text/plain; charset=utf-8", "Grüße vom Mast\n".encode())
    check(len(text["embedding"]) == 384 and abs(np.linalg.norm(text["embedding"]) - 1) < 1e-4, "a sentence")
    print(f"checked {checked}")


main()
