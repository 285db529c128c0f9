"""The benchmark's conv net: weights from a fixed seed, so that every machine measures the same file.

    make_models.py OUT.onnx

image [N, 3, 48, 192] float32 -> scores [N, 16]. Sized for 1.0 to 1.3 ms of one core (AVX2), the size of the text
classifier that the floors of the field were measured with.
"""

import sys

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

CHANNELS = [(3, 24, 2), (24, 48, 2), (48, 96, 1), (96, 128, 2), (128, 128, 1)]


def main(path):
    random = np.random.default_rng(20261123)
    nodes, weights, last = [], [], "image"
    for index, (inputs, outputs, stride) in enumerate(CHANNELS):
        kernel = random.standard_normal((outputs, inputs, 3, 3), dtype=np.float32) * np.float32((2 / (9 * inputs)) ** 0.5)
        weights.append(numpy_helper.from_array(kernel, f"kernel{index}"))
        weights.append(numpy_helper.from_array(np.zeros(outputs, np.float32), f"bias{index}"))
        nodes.append(helper.make_node(
            "Conv", [last, f"kernel{index}", f"bias{index}"], [f"conv{index}"], f"conv{index}",
            kernel_shape=[3, 3], strides=[stride, stride], pads=[1, 1, 1, 1]))
        nodes.append(helper.make_node("Relu", [f"conv{index}"], [f"relu{index}"], f"relu{index}"))
        last = f"relu{index}"
    head = random.standard_normal((CHANNELS[-1][1], 16), dtype=np.float32)
    weights.append(numpy_helper.from_array(head, "head"))
    nodes.append(helper.make_node("GlobalAveragePool", [last], ["pooled"], "pool"))
    nodes.append(helper.make_node("Flatten", ["pooled"], ["flat"], "flatten"))
    nodes.append(helper.make_node("MatMul", ["flat", "head"], ["scores"], "classify"))
    graph = helper.make_graph(
        nodes, "bench",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3, 48, 192])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", 16])], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, path)


main(sys.argv[1])
