"""Records the range of every activation of a float32 model on the calibration photos.

    calibrate.py --out efficientnet-lite0.ranges.json --model model.onnx photo ...

Five crops of each photo (centre, both ends of the longer side, and the first and last mirrored), minimum and maximum
over all of them, rounded outwards to 4 significant digits so that the last bits of a convolution on another CPU do not
show. The result is committed; `quantise_qdq.py` only reads it.
"""

import argparse
import hashlib
import math
import os

import numpy as np
import onnx
import onnxruntime

import compact_json
import photos

DIGITS = 4
MEAN, STD, SIZE = [127.0] * 3, [128.0] * 3, 224


def outwards(value, up):
    """Rounds to DIGITS significant digits, never towards the middle of the range."""
    if value == 0:
        return 0.0
    step = 10.0 ** (math.floor(math.log10(abs(value))) - DIGITS + 1)
    rounded = (math.ceil if up else math.floor)(value / step) * step
    return float(f"{rounded:.{DIGITS}g}")


def crops(photo):
    ends = [photos.centre_square(photo, SIZE, corner) for corner in (0, 1)]
    return [photos.centre_square(photo, SIZE), *ends, *(e[:, ::-1] for e in ends)]


def main():
    args = argparse.ArgumentParser()
    args.add_argument("--out", required=True)
    args.add_argument("--model", required=True)
    args.add_argument("photos", nargs="+")
    args = args.parse_args()
    with open(args.model, "rb") as file:
        data = file.read()
    model = onnx.load_from_string(data)
    outputs = {o.name for o in model.graph.output}
    # A ReLU6 hides the tensor in front of it: that one is never quantised.
    clipped = {n.input[0] for n in model.graph.node if n.op_type == "Clip"}
    tensors = [n.output[0] for n in model.graph.node if n.output[0] not in outputs | clipped]
    for name in tensors:
        model.graph.output.append(onnx.helper.make_empty_tensor_value_info(name))
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    image = model.graph.input[0].name
    low, high = dict.fromkeys([image, *tensors], np.inf), dict.fromkeys([image, *tensors], -np.inf)
    for path in args.photos:
        for crop in crops(photos.load(path)):
            tensor = photos.normalise(crop, "rgb", MEAN, STD)
            values = [tensor, *session.run(tensors, {image: tensor})]
            for name, value in zip([image, *tensors], values):
                low[name], high[name] = min(low[name], float(value.min())), max(high[name], float(value.max()))
    # The input's range is known, not measured: every byte value is possible.
    low[image], high[image] = (0 - MEAN[0]) / STD[0], (255 - MEAN[0]) / STD[0]
    record = {
        "model_sha256": hashlib.sha256(data).hexdigest(),
        "method": f"minimum and maximum over 5 crops a photo, rounded outwards to {DIGITS} significant digits",
        "onnxruntime": onnxruntime.__version__,
        "photos": [os.path.basename(p) for p in args.photos],
        "tensors": {n: [outwards(low[n], False), outwards(high[n], True)] for n in low},
    }
    compact_json.dump(args.out, record)


if __name__ == "__main__":
    main()
