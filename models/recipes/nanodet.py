"""NanoDet (COCO, 416 x 416): a TensorFlow.js graph model as an ONNX graph.

    nanodet.py --out model.onnx nanodet.json nanodet.bin

The file went PyTorch -> ONNX -> TensorFlow -> TensorFlow.js before, which wrapped every convolution in transposes and
spelt padding and bias out as nodes of their own. This reader puts it back together, channels first:
- a transpose is not emitted but remembered as a view of the channels-first tensor it came from;
- Pad before a convolution or pooling becomes its `pads`; Add of a constant after a convolution becomes its bias;
- shapes computed from constants are folded.
Weights are stored as float16 and widened to float32, which is exact. Only the operators of this one file are known;
any other stops the build.

in   image            [1, 3, 416, 416] f32, BGR, (x - [103.53, 116.28, 123.675]) / [57.375, 57.12, 58.395]
out  scores_{8,16,32} [1, cells, 80] f32 in 0..1, after the sigmoid; cells = (416 / stride)^2, row by row
     boxes_{8,16,32}  [1, cells, 44] f32: for left, top, right, bottom 11 logits each. softmax, then the expected bin
                      times the stride is the distance of that side from the cell's centre ((x + 0.5) * stride).
"""

import argparse
import base64
import json

import numpy as np

from onnxfile import Graph

SIZE = 416
OUTPUTS = {
    "Identity": ("scores_8", 2704, 80),
    "Identity_1": ("scores_16", 676, 80),
    "Identity_2": ("scores_32", 169, 80),
    "Identity_3": ("boxes_8", 2704, 44),
    "Identity_4": ("boxes_16", 676, 44),
    "Identity_5": ("boxes_32", 169, 44),
}
TO_NHWC, TO_NCHW = (0, 2, 3, 1), (0, 3, 1, 2)


class View:
    """A tensor of the source = tensor `name` of the result, with axes permuted by `axes` and zero padding not yet applied."""

    def __init__(self, name, axes=None, pads=None):
        self.name, self.axes, self.pads = name, axes, pads


def read_weights(manifest, data):
    """{name: array}; float16 storage is widened to float32."""
    weights, offset = {}, 0
    for group in manifest:
        for entry in group["weights"]:
            stored = np.dtype(entry.get("quantization", entry)["dtype"])
            count = int(np.prod(entry["shape"], dtype=np.int64))
            array = np.frombuffer(data, stored, count, offset).reshape(entry["shape"])
            weights[entry["name"]] = array.astype(np.float32) if stored == np.float16 else array
            offset += count * stored.itemsize
    if offset != len(data):
        raise SystemExit(f"the weights end at byte {offset} of {len(data)}")
    return weights


class Reader:
    def __init__(self, topology, weights):
        self.nodes = [n for n in topology["node"] if n["op"] != "Const"]
        self.constants = dict(weights)
        self.views = {}
        self.graph = Graph("nanodet")
        self.count = {}

    def fresh(self, kind):
        self.count[kind] = self.count.get(kind, -1) + 1
        return f"{kind}{self.count[kind]}"

    def emit(self, op, inputs, kind, axes=None, **attributes):
        return View(self.graph.node(op, inputs, self.fresh(kind), **attributes), axes)

    def run(self):
        # A convolution can only be written once its bias is known: it waits for the Add that follows it.
        for node in self.nodes:
            inputs = [i.removesuffix(":0") for i in node["input"]] if "input" in node else []
            method = getattr(self, "op_" + node["op"].lower(), None)
            if method is None:
                raise SystemExit(f"operator {node['op']} is not known to this recipe")
            method(node["name"], inputs, node.get("attr", {}))
        return self.graph

    # constants ------------------------------------------------------------------------------------------------------

    def op_sparsetodense(self, name, inputs, _attr):
        indices, shape, values, default = (self.constants[i] for i in inputs)
        dense = np.full(shape.tolist(), default)
        for row, index in enumerate(indices):
            dense[tuple(index)] = values[row]
        self.constants[name] = dense

    def op_addv2(self, name, inputs, _attr):
        self.constants[name] = self.constants[inputs[0]] + self.constants[inputs[1]]

    # layout ---------------------------------------------------------------------------------------------------------

    def op_placeholder(self, name, _inputs, _attr):
        self.views[name] = View("image")

    def op_transpose(self, name, inputs, _attr):
        view, perm = self.views[inputs[0]], tuple(self.constants[inputs[1]].tolist())
        if len(perm) != 4:
            plain = self.plain(view)
            self.views[name] = self.emit("Transpose", [plain], "transpose", perm=perm)
            return
        old = view.axes or (0, 1, 2, 3)
        axes = tuple(old[p] for p in perm)
        self.views[name] = View(view.name, None if axes == (0, 1, 2, 3) else axes, view.pads)

    def plain(self, view):
        """Name of a view that must be channels first and unpadded."""
        if view.axes is not None or view.pads is not None:
            raise SystemExit(f"{view.name} is used in a layout that this recipe does not handle")
        return view.name

    def channels_last(self, view):
        """(name, pads) of the channels-first tensor behind a channels-last view."""
        if view.axes != TO_NHWC:
            raise SystemExit(f"{view.name} is not a channels-last view")
        return view.name, view.pads or [0, 0, 0, 0]

    def op_pad(self, name, inputs, _attr):
        view, (n, c, h, w) = self.views[inputs[0]], self.constants[inputs[1]].tolist()
        if any(n + c) or view.axes is not None or view.pads is not None:
            raise SystemExit(f"padding {name} is not spatial")
        self.views[name] = View(view.name, None, [h[0], w[0], h[1], w[1]])

    def op_padv2(self, name, inputs, attr):
        # Only before the max pooling, which ignores padding: right for any value below what can occur there.
        if self.constants[inputs[2]] > -60000:
            raise SystemExit(f"padding {name} is not 'minus infinity' (as float16 stores it)")
        self.op_pad(name, inputs[:2], attr)

    # computation ----------------------------------------------------------------------------------------------------

    def op_conv2d(self, name, inputs, attr):
        if base64.b64decode(attr["padding"]["s"]) != b"VALID" or set(attr["dilations"]["list"]["i"]) != {"1"}:
            raise SystemExit(f"convolution {name} has padding or dilation")
        self.views[name] = (inputs, [int(s) for s in attr["strides"]["list"]["i"][1:3]])

    def op_add(self, name, inputs, _attr):
        first = self.views[inputs[0]]
        if not isinstance(first, tuple):
            names = [self.plain(first), self.plain(self.views[inputs[1]])]
            self.views[name] = self.emit("Add", names, "add")
            return
        (source, kernel), strides = first
        tensor, pads = self.channels_last(self.views[source])
        weight = self.constants[kernel].transpose(3, 2, 0, 1)  # HWIO -> OIHW
        conv = self.fresh("conv")
        names = [self.graph.weight(conv + ".weight", weight), self.graph.weight(conv + ".bias", self.constants[inputs[1]].reshape(-1))]
        self.graph.node("Conv", [tensor, *names], conv, kernel_shape=weight.shape[2:], pads=pads, strides=strides)
        self.views[name] = View(conv, TO_NHWC)

    def op_maxpool(self, name, inputs, attr):
        tensor, pads = self.channels_last(self.views[inputs[0]])
        kernel, strides = ([int(v) for v in attr[k]["list"]["i"][1:3]] for k in ("ksize", "strides"))
        self.views[name] = self.emit("MaxPool", [tensor], "pool", TO_NHWC, kernel_shape=kernel, pads=pads, strides=strides)

    def op_leakyrelu(self, name, inputs, attr):
        self.views[name] = self.emit("LeakyRelu", [self.plain(self.views[inputs[0]])], "leaky", alpha=float(attr["alpha"]["f"]))

    def op_concatv2(self, name, inputs, _attr):
        names = [self.plain(self.views[i]) for i in inputs[:-1]]
        self.views[name] = self.emit("Concat", names, "concat", axis=int(self.constants[inputs[-1]]))

    def op_resizebilinear(self, name, inputs, attr):
        if not attr["half_pixel_centers"]["b"] or attr["align_corners"]["b"]:
            raise SystemExit(f"{name} does not use half-pixel centres")
        tensor, pads = self.channels_last(self.views[inputs[0]])
        height, width = self.constants[inputs[1]].tolist()
        channels = self.channels(tensor)
        size = self.graph.weight(f"size_{channels}_{height}_{width}", np.array([1, channels, height, width], np.int64))
        self.views[name] = self.emit(
            "Resize", [tensor, "", "", size], "resize", TO_NHWC, mode="linear", coordinate_transformation_mode="half_pixel"
        )

    def channels(self, tensor):
        """Output channels of the convolution that `tensor` descends from through element-wise nodes."""
        while tensor + ".weight" not in self.graph.weights:
            tensor = next(n.input[0] for n in self.graph.nodes if n.output[0] == tensor)
        return self.graph.weights[tensor + ".weight"].shape[0]

    def op_splitv(self, name, inputs, _attr):
        sizes, axis = self.constants[inputs[1]], int(self.constants[inputs[2]])
        split = self.fresh("split")
        lengths = self.graph.weight(split + ".sizes", sizes.astype(np.int64))
        names = [f"{split}.{i}" for i in range(len(sizes))]
        self.graph.node("Split", [self.plain(self.views[inputs[0]]), lengths], names, axis=axis)
        for i, part in enumerate(names):
            self.views[name if i == 0 else f"{name}:{i}"] = View(part)

    def op_sigmoid(self, name, inputs, _attr):
        self.views[name] = self.emit("Sigmoid", [self.plain(self.views[inputs[0]])], "sigmoid")

    def op_reshape(self, name, inputs, _attr):
        shape = self.constants[inputs[1]].astype(np.int64)
        target = self.graph.weight("shape_" + "_".join(str(s).replace("-", "m") for s in shape.tolist()), shape)
        self.views[name] = self.emit("Reshape", [self.plain(self.views[inputs[0]]), target], "reshape")

    def op_identity(self, name, inputs, _attr):
        self.graph.node("Identity", [self.plain(self.views[inputs[0]])], OUTPUTS[name][0])


def main():
    args = argparse.ArgumentParser()
    args.add_argument("--out", required=True)
    args.add_argument("topology")
    args.add_argument("weights")
    args = args.parse_args()
    with open(args.topology, encoding="utf-8") as file:
        source = json.load(file)
    with open(args.weights, "rb") as file:
        weights = read_weights(source["weightsManifest"], file.read())
    graph = Reader(source["modelTopology"], weights).run()
    graph.save(args.out, [("image", [1, 3, SIZE, SIZE])], [(n, [1, cells, width]) for n, cells, width in OUTPUTS.values()])


if __name__ == "__main__":
    main()
