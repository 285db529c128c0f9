"""Silero VAD with its one length of input in the file.

    silero_vad.py --out model.onnx silero_vad_16k_op15.onnx

The package's file leaves the length open and fails at run time on every one that is too short for its padding. At 16 kHz it is
576 samples: 64 of the chunk before, then 512 (`OnnxWrapper` in the package). Stated in the file, a request of another length
is refused for its shape, and the warm-up run has one that works. Nothing else is changed.
"""

import argparse

import onnx

LENGTH = 576


def main():
    args = argparse.ArgumentParser()
    args.add_argument("--out", required=True)
    args.add_argument("source")
    args = args.parse_args()
    model = onnx.load(args.source)
    shape = next(value for value in model.graph.input if value.name == "input").type.tensor_type.shape
    if len(shape.dim) != 2 or shape.dim[1].dim_value:
        raise SystemExit(f"{args.source}: the input is not [batch, open length]")
    shape.dim[1].dim_value = LENGTH
    onnx.checker.check_model(model, full_check=True)
    with open(args.out, "wb") as file:
        file.write(model.SerializeToString(deterministic=True))


if __name__ == "__main__":
    main()
