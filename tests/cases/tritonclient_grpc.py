"""tritonclient's gRPC client against an agent that serves `add` (y = x + 1, float32 [n, 4]) and `slow` (tens of milliseconds).

    tritonclient_grpc.py HOST:PORT KEY

The agent knows the key, whose owner may administer, and no other.

Ends with "all checks held", or fails at the first that does not.
"""

import queue
import sys

import grpc as channel
import numpy as np
import tritonclient.grpc as grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import InferenceServerException


class Key(grpc.InferenceServerClientPlugin):
    """Sends the key with every request."""

    def __init__(self, key):
        self.key = key

    def __call__(self, request):
        request.headers = {**(request.headers or {}), "mast-key": self.key}


def infer(client, rows=2, **options):
    values = np.arange(rows * 4, dtype=np.float32).reshape(rows, 4)
    tensor = grpc.InferInput("x", list(values.shape), "FP32")
    tensor.set_data_from_numpy(values)
    result = client.infer("add", [tensor], outputs=[grpc.InferRequestedOutput("y")], request_id="17", **options)
    assert result.get_response().id == "17", result.get_response()
    np.testing.assert_array_equal(result.as_numpy("y"), values + 1)
    result = client.infer("add", [tensor], **options)
    np.testing.assert_array_equal(result.as_numpy("y"), values + 1)


def refused(action, *words, status=None):
    try:
        action()
    except InferenceServerException as error:
        for word in words:
            assert word in error.message(), error.message()
        expected = (status,) if isinstance(status, str) else status
        assert status is None or error.status().removeprefix("StatusCode.") in expected, error
        return
    raise AssertionError(f"{action} was not refused")


def zeros(shape=(1, 4), name="x"):
    tensor = grpc.InferInput(name, list(shape), "FP32")
    tensor.set_data_from_numpy(np.zeros(shape, np.float32))
    return tensor


def describes(client):
    assert client.is_server_live() and client.is_server_ready()
    assert client.is_model_ready("add") and client.is_model_ready("add", "1")
    assert not client.is_model_ready("none")
    server = client.get_server_metadata()
    assert server.name and server.version and "statistics" in server.extensions, server
    model = client.get_model_metadata("add", as_json=True)
    assert model["name"] == "add" and model["versions"] == ["1"], model
    # Protobuf's JSON writes int64 as text.
    assert model["inputs"] == [{"name": "x", "datatype": "FP32", "shape": ["-1", "4"]}], model
    config = client.get_model_config("add").config
    assert config.name == "add" and config.max_batch_size == 8, config
    assert [one.name for one in config.input] == ["x"] and [one.name for one in config.output] == ["y"], config
    assert list(config.input[0].dims) == [4], config


def infers(client):
    infer(client)
    infer(client, model_version="1", timeout=5_000_000, priority=0)
    infer(client, client_timeout=30, headers={"mast-tenant": "local"})
    answers = queue.Queue()
    for _ in range(8):
        client.async_infer("add", [zeros()], lambda result, error: answers.put((result, error)))
    for _ in range(8):
        result, error = answers.get(timeout=30)
        assert error is None, error
        np.testing.assert_array_equal(result.as_numpy("y"), np.ones((1, 4), np.float32))


def counts(client):
    stats = client.get_inference_statistics("add").model_stats[0]
    assert stats.name == "add" and stats.version == "1", stats
    # 2 x 3 from infer(), 8 from async_infer().
    assert stats.inference_stats.success.count == 14, stats
    for key in ("success", "queue", "compute_input", "compute_infer", "compute_output"):
        assert getattr(stats.inference_stats, key).count == 14, stats
    assert len(client.get_inference_statistics().model_stats) == 2, "statistics of all models"


def compresses(client):
    for algorithm in ("gzip", "deflate"):
        infer(client, compression_algorithm=algorithm)


def typed(address, key):
    """Contents by type instead of raw bytes, which other clients of the protocol send."""
    stub = service_pb2_grpc.GRPCInferenceServiceStub(channel.insecure_channel(address))
    request = service_pb2.ModelInferRequest(model_name="add")
    tensor = request.inputs.add(name="x", datatype="FP32", shape=[1, 4])
    tensor.contents.fp32_contents.extend([0, 1, 2, 3])
    metadata = (("mast-key", key),)
    response = stub.ModelInfer(request, metadata=metadata)
    values = np.frombuffer(response.raw_output_contents[0], np.float32)
    np.testing.assert_array_equal(values, np.array([1, 2, 3, 4], np.float32))
    # Both forms at once are an error, not a guess.
    request.raw_input_contents.append(bytes(16))
    try:
        stub.ModelInfer(request, metadata=metadata)
    except channel.RpcError as error:
        assert error.code() == channel.StatusCode.INVALID_ARGUMENT, error
    else:
        raise AssertionError("typed and raw contents at once were taken")


def health(address):
    """grpc.health.v1, as load balancers and Kubernetes ask it: SERVING is 1."""
    check = channel.insecure_channel(address).unary_unary("/grpc.health.v1.Health/Check")
    assert check(b"") == b"\x08\x01"
    service = b"inference.GRPCInferenceService"
    assert check(b"\x0a" + bytes([len(service)]) + service) == b"\x08\x01"


def streams(client):
    answers = queue.Queue()
    client.start_stream(lambda result, error: answers.put((result, error)))
    for number in range(8):
        tensor = grpc.InferInput("x", [1, 4], "FP32")
        tensor.set_data_from_numpy(np.full((1, 4), number, np.float32))
        client.async_stream_infer("add", [tensor], request_id=str(number))
    for number in range(8):
        result, error = answers.get(timeout=30)
        assert error is None, error
        assert result.get_response().id == str(number), "replies out of order"
        np.testing.assert_array_equal(result.as_numpy("y"), np.full((1, 4), number + 1, np.float32))
    # An error is one answer of the stream, not its end.
    client.async_stream_infer("none", [zeros()])
    _, error = answers.get(timeout=30)
    assert error is not None and "none" in error.message(), error
    client.async_stream_infer("add", [zeros()])
    result, error = answers.get(timeout=30)
    assert error is None, error
    client.stop_stream()


def classifies(client):
    tensor = grpc.InferInput("x", [1, 4], "FP32")
    tensor.set_data_from_numpy(np.array([[3, 1, 2, 0]], np.float32))
    outputs = [grpc.InferRequestedOutput("y", class_count=2)]
    classes = client.infer("add", [tensor], outputs=outputs).as_numpy("y")
    said = [one.decode().split(":") for one in classes[0]]
    assert [(float(value), index) for value, index, *_ in said] == [(4, "0"), (3, "2")], said


def parameters_and_priority(client):
    infer(client, priority=1, parameters={"mine": "kept to myself", "number": 7, "yes": True})


def times_out(client):
    assert client.infer("slow", [zeros((1, 1))]).as_numpy("y") == 0
    answers = queue.Queue()
    for _ in range(4):
        client.async_infer("slow", [zeros((1, 1))], lambda result, error: answers.put(error))
    # Behind another one, a millisecond is not enough: refused, not answered late.
    refused(lambda: client.infer("slow", [zeros((1, 1))], timeout=1000), status="UNAVAILABLE")
    # The same by the client's own deadline, whichever of the two notices first.
    refused(lambda: client.infer("slow", [zeros((1, 1))], client_timeout=0.001), status=("DEADLINE_EXCEEDED", "UNAVAILABLE"))
    for _ in range(4):
        assert answers.get(timeout=60) is None


def errors(client):
    invalid = "INVALID_ARGUMENT"
    refused(lambda: client.infer("none", [zeros()]), "none")
    refused(lambda: client.infer("add", [zeros()], model_version="9"), "9")
    refused(lambda: client.infer("add", [zeros((1, 5))]), "x", status=invalid)
    refused(lambda: client.infer("add", [zeros(name="z")]), "z", status=invalid)
    refused(lambda: client.infer("add", [zeros((9, 4))]), "8", status=invalid)
    wrong = grpc.InferInput("x", [1, 4], "INT32")
    wrong.set_data_from_numpy(np.zeros((1, 4), np.int32))
    refused(lambda: client.infer("add", [wrong]), "INT32", status=invalid)
    refused(lambda: client.infer("add", [zeros()], outputs=[grpc.InferRequestedOutput("none")]), "none", status=invalid)
    refused(lambda: client.get_model_metadata("none"), "none")
    refused(lambda: client.load_model("none"), "none")
    refused(lambda: client.get_system_shared_memory_status(), "shared memory", status="UNIMPLEMENTED")
    infer(client)


def loads(client):
    index = client.get_model_repository_index().models
    assert sorted((one.name, one.state) for one in index) == [("add", "READY"), ("slow", "READY")], index
    client.unload_model("add")
    assert not client.is_model_ready("add")
    refused(lambda: infer(client), "add")
    client.load_model("add")
    assert client.is_model_ready("add")
    infer(client)


def needs_a_key(address):
    """Whoever has none is told whether the server lives, and nothing else."""
    for key in (None, "mast_of_somebody_else_0123456789abcdefghijklmnop"):
        client = grpc.InferenceServerClient(address)
        if key:
            client.register_plugin(Key(key))
        assert client.is_server_live() and client.is_server_ready()
        refused(lambda: infer(client), "key", status="UNAUTHENTICATED")
        refused(lambda: client.get_model_metadata("add"), "key", status="UNAUTHENTICATED")
        refused(lambda: client.unload_model("add"), "key", status="UNAUTHENTICATED")
        client.close()


def main():
    address, key = sys.argv[1:]
    needs_a_key(address)
    client = grpc.InferenceServerClient(address)
    client.register_plugin(Key(key))
    describes(client)
    infers(client)
    counts(client)
    typed(address, key)
    health(address)
    for check in (compresses, streams, classifies, parameters_and_priority, times_out, errors, loads):
        check(client)
    client.close()
    print("all checks held")


main()
