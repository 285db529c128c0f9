"""Triton's Python backend for the benchmark: one ONNX Runtime session, one thread, no spinning, as everyone in the table has.

The stub does not read PYTHONPATH, so the packages are added here. Numpy 2 makes every output empty with this stub.
"""

import os
import sys

sys.path.insert(0, os.environ["BENCH_PACKAGES"])

import onnxruntime
import triton_python_backend_utils as triton


class TritonPythonModel:
    def initialize(self, args):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self.session = onnxruntime.InferenceSession(os.environ["BENCH_MODEL"], options, providers=["CPUExecutionProvider"])
        self.names = [output.name for output in self.session.get_outputs()]

    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        feeds = {one.name(): one.as_numpy() for one in request.inputs()}
        values = self.session.run(None, feeds)
        return triton.InferenceResponse([triton.Tensor(name, value) for name, value in zip(self.names, values)])
