"""tritonclient's HTTP client against an agent that serves `add` (y = x + 1, float32 [n, 4]).

    tritonclient_check.py HOST:PORT

Ends with "all checks held", or fails at the first that does not.
"""

import sys

import numpy as np
import tritonclient.http as http
from tritonclient.utils import InferenceServerException


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


def refused(action, *words):
    try:
        action()
    except InferenceServerException as error:
        for word in words:
            assert word in error.message(), error.message()
        return
    raise AssertionError(f"{action} was not refused")


def main():
    client = http.InferenceServerClient(sys.argv[1])
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

    for binary in (True, False):
        infer(client, binary)
    infer(client, True, model_version="1", timeout=5_000_000, priority=0)
    infer(client, True, request_compression_algorithm="gzip")
    infer(client, True, request_compression_algorithm="deflate", response_compression_algorithm="gzip")
    waiting = [client.async_infer("add", [request()]) for _ in range(8)]
    for handle in waiting:
        np.testing.assert_array_equal(handle.get_result().as_numpy("y"), np.ones((1, 4), np.float32))

    stats = client.get_inference_statistics("add")["model_stats"][0]
    assert stats["name"] == "add" and stats["version"] == "1", stats
    inner = stats["inference_stats"]
    # 2 x 2 + 2 + 2 + 2 from infer(), 8 from async_infer().
    assert inner["success"]["count"] == 18, stats
    for key in ("success", "fail", "queue", "compute_input", "compute_infer", "compute_output", "cache_hit", "cache_miss"):
        assert set(inner[key]) == {"count", "ns"}, stats
    assert client.get_inference_statistics()["model_stats"], "statistics of all models"

    index = client.get_model_repository_index()
    assert [(one["name"], one["state"]) for one in index] == [("add", "READY")], index
    client.unload_model("add")
    assert not client.is_model_ready("add")
    refused(lambda: infer(client, True), "add")
    client.load_model("add")
    assert client.is_model_ready("add")
    infer(client, True)
    refused(lambda: client.load_model("none"), "none")
    refused(lambda: client.get_model_metadata("none"), "none")
    print("all checks held")


def request():
    tensor = http.InferInput("x", [1, 4], "FP32")
    tensor.set_data_from_numpy(np.zeros((1, 4), np.float32))
    return tensor


main()
