"""tritonclient's HTTP client against an agent that serves `add` (y = x + 1, float32 [n, 4]) and `slow` (tens of milliseconds).

    tritonclient_http.py HOST:PORT KEY

The agent knows the key, whose owner may administer, and no other.

Ends with "all checks held", or fails at the first that does not.
"""

import sys

import numpy as np
import tritonclient.http as http
from tritonclient.utils import InferenceServerException


class Key(http.InferenceServerClientPlugin):
    """Sends the key with every request."""

    def __init__(self, key):
        self.key = key

    def __call__(self, request):
        request.headers = {**(request.headers or {}), "mast-key": self.key}


def infer(client, binary, rows=2, **options):
    values = np.arange(rows * 4, dtype=np.float32).reshape(rows, 4)
    tensor = http.InferInput("x", list(values.shape), "FP32")
    tensor.set_data_from_numpy(values, binary_data=binary)
    outputs = [http.InferRequestedOutput("y", binary_data=binary)]
    result = client.infer("add", [tensor], outputs=outputs, request_id="17", **options)
    assert result.get_response()["id"] == "17", result.get_response()
    np.testing.assert_array_equal(result.as_numpy("y"), values + 1)
    # Without a list of outputs the client asks for all of them as binary.
    result = client.infer("add", [tensor], **options)
    np.testing.assert_array_equal(result.as_numpy("y"), values + 1)


def refused(action, *words, status=None):
    try:
        action()
    except InferenceServerException as error:
        for word in words:
            assert word in error.message(), error.message()
        assert status is None or error.status() == status, error.status()
        return
    raise AssertionError(f"{action} was not refused")


def zeros(shape=(1, 4), name="x"):
    tensor = http.InferInput(name, list(shape), "FP32")
    tensor.set_data_from_numpy(np.zeros(shape, np.float32))
    return tensor


def describes(client):
    assert client.is_server_live() and client.is_server_ready()
    assert client.is_model_ready("add") and client.is_model_ready("add", "1")
    assert not client.is_model_ready("none")
    server = client.get_server_metadata()
    assert "binary_tensor_data" in server["extensions"], server
    model = client.get_model_metadata("add")
    assert model["name"] == "add" and model["versions"] == ["1"], model
    assert model["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}], model
    config = client.get_model_config("add")
    assert config["name"] == "add" and config["max_batch_size"] == 8, config
    assert [one["name"] for one in config["input"]] == ["x"] and [one["name"] for one in config["output"]] == ["y"], config


def infers(client):
    for binary in (True, False):
        infer(client, binary)
    infer(client, True, model_version="1", timeout=5_000_000, priority=0)
    infer(client, True, request_compression_algorithm="gzip")
    infer(client, True, request_compression_algorithm="deflate", response_compression_algorithm="gzip")
    waiting = [client.async_infer("add", [zeros()]) for _ in range(8)]
    for handle in waiting:
        np.testing.assert_array_equal(handle.get_result().as_numpy("y"), np.ones((1, 4), np.float32))


def counts(client):
    stats = client.get_inference_statistics("add")["model_stats"][0]
    assert stats["name"] == "add" and stats["version"] == "1", stats
    inner = stats["inference_stats"]
    # 2 x 2 + 2 + 2 + 2 from infer(), 8 from async_infer().
    assert inner["success"]["count"] == 18, stats
    for key in ("success", "fail", "queue", "compute_input", "compute_infer", "compute_output", "cache_hit", "cache_miss"):
        assert set(inner[key]) == {"count", "ns"}, stats
    assert client.get_inference_statistics()["model_stats"], "statistics of all models"


def classifies(client):
    values = np.array([[3, 1, 2, 0]], np.float32)
    tensor = http.InferInput("x", [1, 4], "FP32")
    for binary in (True, False):
        tensor.set_data_from_numpy(values)
        outputs = [http.InferRequestedOutput("y", binary_data=binary, class_count=2)]
        classes = client.infer("add", [tensor], outputs=outputs).as_numpy("y")
        said = [one.decode() if isinstance(one, bytes) else one for one in classes[0]]
        assert [(float(one.split(":")[0]), one.split(":")[1]) for one in said] == [(4, "0"), (3, "2")], said


def parameters_and_priority(client):
    infer(client, True, priority=1, parameters={"mine": "kept to myself", "number": 7, "yes": True})


def times_out(client):
    assert client.infer("slow", [zeros((1, 1))]).as_numpy("y") == 0
    # Behind another one, a millisecond is not enough: refused, not answered late.
    busy = [client.async_infer("slow", [zeros((1, 1))]) for _ in range(4)]
    refused(lambda: client.infer("slow", [zeros((1, 1))], timeout=1000), status="503")
    for handle in busy:
        handle.get_result()


def errors(client):
    refused(lambda: client.infer("none", [zeros()]), "none")
    refused(lambda: client.infer("add", [zeros()], model_version="9"), "9")
    refused(lambda: client.infer("add", [zeros((1, 5))]), "x", status="400")
    refused(lambda: client.infer("add", [zeros(name="z")]), "z", status="400")
    refused(lambda: client.infer("add", [zeros((9, 4))]), "8", status="400")
    wrong = http.InferInput("x", [1, 4], "INT32")
    wrong.set_data_from_numpy(np.zeros((1, 4), np.int32))
    refused(lambda: client.infer("add", [wrong]), "INT32", status="400")
    refused(lambda: client.infer("add", [zeros()], outputs=[http.InferRequestedOutput("none")]), "none", status="400")
    refused(lambda: client.get_model_metadata("none"), "none")
    refused(lambda: client.load_model("none"), "none")
    infer(client, True)


def loads(client):
    index = client.get_model_repository_index()
    assert sorted((one["name"], one["state"]) for one in index) == [("add", "READY"), ("slow", "READY")], index
    client.unload_model("add")
    assert not client.is_model_ready("add")
    refused(lambda: infer(client, True), "add")
    client.load_model("add")
    assert client.is_model_ready("add")
    infer(client, True)


def needs_a_key(address):
    """Whoever has none is told whether the server lives, and nothing else."""
    for key in (None, "mast_of_somebody_else_0123456789abcdefghijklmnop"):
        client = http.InferenceServerClient(address)
        if key:
            client.register_plugin(Key(key))
        assert client.is_server_live() and client.is_server_ready()
        refused(lambda: infer(client, True), "key", status="401")
        refused(lambda: client.get_model_metadata("add"), "key", status="401")
        refused(lambda: client.unload_model("add"), "key", status="401")


def main():
    address, key = sys.argv[1:]
    needs_a_key(address)
    client = http.InferenceServerClient(address, concurrency=8)
    client.register_plugin(Key(key))
    for check in (describes, infers, counts, classifies, parameters_and_priority, times_out, errors, loads):
        check(client)
    print("all checks held")


main()
