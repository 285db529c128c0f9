"""Writes an ONNX file whose bytes depend on its content only.

Every recipe ends in `save`. Fixed opset and IR version, a fixed producer, no doc strings, no timestamps, initialisers in
the order in which they were added, and protobuf's deterministic serialisation: the same graph gives the same sha256 on
any machine with the pinned `onnx` and `protobuf` (models/requirements.txt).
"""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 17
IR_VERSION = 8  # the IR that opset 17 came with; older runtimes refuse newer ones


class Graph:
    """A graph under construction: nodes and initialisers in the order of their making."""

    def __init__(self, name):
        self.name = name
        self.nodes = []
        self.weights = {}

    def weight(self, name, array):
        """Adds an initialiser and returns its name. The same name twice must carry the same values."""
        array = np.asarray(array, order="C")  # not ascontiguousarray, which turns a scalar into a vector
        if name in self.weights:
            if not np.array_equal(self.weights[name], array):
                raise ValueError(f"two different initialisers are called {name}")
        self.weights[name] = array
        return name

    def node(self, op, inputs, outputs, **attributes):
        """Adds a node named after its first output; returns the output's name, or the list of names."""
        names = [outputs] if isinstance(outputs, str) else list(outputs)
        self.nodes.append(helper.make_node(op, list(inputs), names, name=names[0], **attributes))
        return outputs

    def save(self, path, inputs, outputs):
        """`inputs` and `outputs`: [(name, shape)], all float32; a string in a shape is a free dimension."""

        def info(pair):
            return helper.make_tensor_value_info(pair[0], TensorProto.FLOAT, pair[1])

        used = {name for node in self.nodes for name in node.input}
        weights = [numpy_helper.from_array(a, n) for n, a in self.weights.items() if n in used]
        graph = helper.make_graph(self.nodes, self.name, [info(i) for i in inputs], [info(o) for o in outputs], weights)
        model = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            producer_name="mast-recipes",
            producer_version="1",
        )
        onnx.checker.check_model(model, full_check=True)
        with open(path, "wb") as file:
            file.write(model.SerializeToString(deterministic=True))
