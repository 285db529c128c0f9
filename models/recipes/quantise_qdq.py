"""Static int8: a float32 model plus recorded activation ranges becomes a QDQ model. No inference happens here.

    quantise_qdq.py --ranges efficientnet-lite0.ranges.json --out model.onnx float32.onnx

Scheme, chosen for u8 x s8 kernels of CPUs (ONNX Runtime's QLinearConv, QLinearAdd, QGemm):
- activations u8, asymmetric, one scale per tensor, range from the committed file widened to contain 0;
- weights s8, symmetric, one scale per output channel, limited to 7 bits (-64..64): on x86 without VNNI the kernel adds
  two u8*s8 products in 16 bits, and 2 * 255 * 64 = 32,640 is the largest that cannot saturate. The integer sums are
  therefore the same on AVX2, AVX-512, VNNI and NEON;
- biases s32 at scale (activation scale * weight scale);
- ReLU6 disappears: its output range starts at 0 and ends at or below 6, so the u8 clamp does its work;
- the logits stay float32.

TensorRT wants zero point 0 for activations, so this variant is for the CPU provider.
"""

import argparse
import hashlib
import json

import numpy as np
import onnx
from onnx import numpy_helper

from onnxfile import Graph

WEIGHT_LIMIT = 64  # 7 bits, see above


def activation_parameters(low, high):
    """(scale f32, zero point u8) of a tensor with values in [low, high]."""
    low, high = min(float(low), 0.0), max(float(high), 0.0)
    scale = np.float32((high - low) / 255.0)
    return scale, np.uint8(round(-low / float(scale)))


class Quantiser:
    def __init__(self, model, ranges):
        self.source = model.graph
        self.weights = {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}
        self.ranges = ranges
        self.graph = Graph(model.graph.name + "_int8")
        self.scales = {}  # tensor -> scale of its activation
        self.alias = {}  # tensor of the float model -> tensor that carries it here, dequantised

    def activation(self, tensor, carrier):
        """Q + DQ on `carrier`, which holds the value that the float model calls `tensor`."""
        g = self.graph
        scale, zero = activation_parameters(*self.ranges[tensor])
        names = [g.weight(tensor + ".scale", scale), g.weight(tensor + ".zero", zero)]
        quantised = g.node("QuantizeLinear", [carrier, *names], tensor + ".q")
        self.alias[tensor] = g.node("DequantizeLinear", [quantised, *names], tensor + ".dq")
        self.scales[tensor] = scale

    def weight_and_bias(self, node):
        """Quantised weight (axis 0 = output channel) and bias of a Conv or Gemm; the names of their DQ outputs."""
        g, weight, bias = self.graph, self.weights[node.input[1]], self.weights[node.input[2]]
        largest = np.abs(weight.reshape(weight.shape[0], -1)).max(axis=1)
        scale = (np.maximum(largest, np.float32(1e-12)) / np.float32(WEIGHT_LIMIT)).astype(np.float32)
        column = scale.reshape(-1, *[1] * (weight.ndim - 1))
        quantised = np.clip(np.rint(weight / column), -WEIGHT_LIMIT, WEIGHT_LIMIT).astype(np.int8)
        bias_scale = (scale * self.scales[node.input[0]]).astype(np.float32)
        bias_q = np.rint(bias.astype(np.float64) / bias_scale).clip(-(2**31), 2**31 - 1).astype(np.int32)
        return [
            self.dequantised(node.input[1], quantised, scale),
            self.dequantised(node.input[2], bias_q, bias_scale),
        ]

    def dequantised(self, name, values, scale):
        g = self.graph
        zero = np.zeros(len(scale), values.dtype)
        inputs = [g.weight(name + ".q", values), g.weight(name + ".scale", scale), g.weight(name + ".zero", zero)]
        return g.node("DequantizeLinear", inputs, name + ".dq", axis=0)

    def run(self):
        self.activation(self.source.input[0].name, self.source.input[0].name)
        clipped = {n.input[0]: n.output[0] for n in self.source.node if n.op_type == "Clip"}
        outputs = {o.name for o in self.source.output}
        for node in self.source.node:
            if node.op_type == "Clip":
                continue  # done by the clamp of the convolution's QuantizeLinear
            attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
            inputs = [self.alias[i] for i in node.input if i in self.alias]
            if node.op_type in ("Conv", "Gemm"):
                inputs += self.weight_and_bias(node)
            name = node.output[0]
            carrier = self.graph.node(node.op_type, inputs, name, **attributes)
            if name not in outputs:
                self.activation(clipped.get(name, name), carrier)
        return self.graph


def main():
    args = argparse.ArgumentParser()
    args.add_argument("--ranges", required=True)
    args.add_argument("--out", required=True)
    args.add_argument("model")
    args = args.parse_args()
    with open(args.model, "rb") as file:
        data = file.read()
    with open(args.ranges, encoding="utf-8") as file:
        recorded = json.load(file)
    if recorded["model_sha256"] != hashlib.sha256(data).hexdigest():
        raise SystemExit(f"{args.ranges} was recorded for another float32 model; run: cargo xtask models calibrate")
    model = onnx.load_from_string(data)
    graph = Quantiser(model, recorded["tensors"]).run()

    def shape(value):
        return [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]

    graph.save(args.out, [(i.name, shape(i)) for i in model.graph.input], [(o.name, shape(o)) for o in model.graph.output])


if __name__ == "__main__":
    main()
