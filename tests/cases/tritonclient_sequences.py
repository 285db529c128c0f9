"""tritonclient's sequences, HTTP and gRPC, against an agent that serves `sum`: y is the sum of all x of the sequence so far.

    tritonclient_sequences.py HTTP_HOST:PORT GRPC_HOST:PORT

Ends with "all checks held", or fails at the first that does not.
"""

import queue
import sys

import numpy as np
import tritonclient.grpc as grpc
import tritonclient.http as http
from tritonclient.utils import InferenceServerException


def tensor(kind, value):
    one = kind.InferInput("x", [1, 1], "FP32")
    one.set_data_from_numpy(np.array([[value]], np.float32))
    return [one]


def many_at_once(kind, client, ids):
    """Each sequence has its own sum, however they take turns."""
    sums = dict.fromkeys(ids, 0)
    for step in range(6):
        for number, sequence in enumerate(ids):
            value = step * 10 + number
            sums[sequence] += value
            result = client.infer(
                "sum", tensor(kind, value), sequence_id=sequence, sequence_start=step == 0, sequence_end=step == 5)
            assert result.as_numpy("y") == sums[sequence], (sequence, step, result.as_numpy("y"), sums)


def refused_without_a_start(kind, client, sequence):
    try:
        client.infer("sum", tensor(kind, 1), sequence_id=sequence)
    except InferenceServerException as error:
        assert "START" in error.message(), error.message()
    else:
        raise AssertionError("a step of no sequence was taken")


def ended(kind, client, sequence):
    client.infer("sum", tensor(kind, 1), sequence_id=sequence, sequence_start=True, sequence_end=True)
    refused_without_a_start(kind, client, sequence)


def streamed(client, ids):
    answers = queue.Queue()
    client.start_stream(lambda result, error: answers.put((result, error)))
    for step in range(4):
        for sequence in ids:
            client.async_stream_infer(
                "sum", tensor(grpc, 1), request_id=f"{sequence} {step}", sequence_id=sequence,
                sequence_start=step == 0, sequence_end=step == 3)
    for _ in range(4 * len(ids)):
        result, error = answers.get(timeout=30)
        assert error is None, error
        _, step = result.get_response().id.split(" ")
        assert result.as_numpy("y") == int(step) + 1, result.get_response()
    client.stop_stream()


def main():
    for kind, address, base in ((http, sys.argv[1], 100), (grpc, sys.argv[2], 200)):
        client = kind.InferenceServerClient(address)
        many_at_once(kind, client, [base + index for index in range(1, 6)])
        many_at_once(kind, client, [f"caller-{base}-{index}" for index in range(3)])
        refused_without_a_start(kind, client, base + 50)
        ended(kind, client, base + 60)
    streamed(client, [301, 302, 303])
    print("all checks held")


main()
