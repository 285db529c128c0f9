"""How far a quantised classifier agrees with its float32 source, on photos that were not used for calibration.

    agreement.py float32.onnx int8.onnx photo ...

Six crops a photo (centre and both ends of the longer side, each also mirrored). The crops of one photo are much alike,
so this is a check that quantisation did no damage, not an accuracy: no labelled data set is involved.
"""

import argparse
import time

import numpy as np
import onnxruntime

import photos

MEAN, STD, SIZE = [127.0] * 3, [128.0] * 3, 224
RUNS = 50


def session(path):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def median_ms(run, feed):
    times = []
    for _ in range(RUNS):
        start = time.perf_counter()
        run.run(None, feed)
        times.append((time.perf_counter() - start) * 1e3)
    return float(np.median(times))


def main():
    args = argparse.ArgumentParser()
    args.add_argument("float32")
    args.add_argument("int8")
    args.add_argument("photos", nargs="+")
    args = args.parse_args()
    full, quantised = session(args.float32), session(args.int8)
    name = full.get_inputs()[0].name
    same, overlap, cosine = 0, [], []
    for path in args.photos:
        photo = photos.load(path)
        for corner in (None, 0, 1):
            square = photos.centre_square(photo, SIZE, corner)
            for crop in (square, square[:, ::-1]):
                feed = {name: photos.normalise(crop, "rgb", MEAN, STD)}
                a, b = full.run(None, feed)[0][0], quantised.run(None, feed)[0][0]
                same += int(a.argmax() == b.argmax())
                overlap.append(len(set(np.argsort(a)[-5:]) & set(np.argsort(b)[-5:])))
                cosine.append(float(a @ b / np.linalg.norm(a) / np.linalg.norm(b)))
    print(f"same first class on {same} of {len(cosine)} crops of {len(args.photos)} photos")
    print(f"of the five first classes {np.mean(overlap):.2f} in common, cosine of the logits {np.mean(cosine):.4f} (lowest {min(cosine):.4f})")
    print(f"median of {RUNS} calls, batch 1, 1 thread: float32 {median_ms(full, feed):.1f} ms, int8 {median_ms(quantised, feed):.1f} ms")


if __name__ == "__main__":
    main()
