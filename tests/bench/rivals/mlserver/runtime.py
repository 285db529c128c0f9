"""MLServer's runtime for the benchmark: one ONNX Runtime session, one thread, no spinning, as everyone in the table has.

The session releases the interpreter while it computes, so it runs beside the event loop: MLServer reads the next request
meanwhile.
"""

import asyncio
import os
from concurrent.futures import ThreadPoolExecutor

import onnxruntime
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse


class Runtime(MLModel):
    async def load(self) -> bool:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self.session = onnxruntime.InferenceSession(os.environ["BENCH_MODEL"], options, providers=["CPUExecutionProvider"])
        self.engine = ThreadPoolExecutor(1)
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        feeds = {one.name: NumpyCodec.decode_input(one) for one in payload.inputs}
        values = await asyncio.get_running_loop().run_in_executor(self.engine, self.session.run, None, feeds)
        named = zip(self.session.get_outputs(), values)
        outputs = [NumpyCodec.encode_output(output.name, value) for output, value in named]
        return InferenceResponse(model_name=self.name, model_version=self.version, outputs=outputs)
