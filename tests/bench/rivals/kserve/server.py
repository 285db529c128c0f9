"""KServe's Python server for the benchmark: one ONNX Runtime session, one thread, no spinning, as everyone in the table has.

    server.py HTTP_PORT GRPC_PORT
"""

import asyncio
import os
import sys
from concurrent.futures import ThreadPoolExecutor

import onnxruntime
from kserve import InferOutput, InferRequest, InferResponse, Model, ModelServer


class Runtime(Model):
    def __init__(self):
        super().__init__("conv")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self.session = onnxruntime.InferenceSession(os.environ["BENCH_MODEL"], options, providers=["CPUExecutionProvider"])
        self.engine = ThreadPoolExecutor(1)
        self.ready = True

    async def predict(self, payload: InferRequest, headers=None, response_headers=None) -> InferResponse:
        feeds = {one.name: one.as_numpy() for one in payload.inputs}
        values = await asyncio.get_running_loop().run_in_executor(self.engine, self.session.run, None, feeds)
        outputs = []
        for output, value in zip(self.session.get_outputs(), values):
            one = InferOutput(output.name, list(value.shape), "FP32")
            one.set_data_from_numpy(value, binary_data=True)
            outputs.append(one)
        return InferResponse(payload.id or "", self.name, outputs)


if __name__ == "__main__":
    http, grpc = int(sys.argv[1]), int(sys.argv[2])
    ModelServer(http_port=http, grpc_port=grpc, enable_latency_logging=False).start([Runtime()])
