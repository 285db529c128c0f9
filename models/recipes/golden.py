"""Recomputes the golden cases with ONNX Runtime's CPU provider and compares them, or writes them.

    golden.py --repository DIR --photos DIR [--write] case.json ...

A case states what goes in and how far an output may be off. What goes in is a photo (crop, block, channels, mean, std: see
photos.prepare), a `text`, or a `sound` of so many chunks (voice.py). The rest is filled in by --write:

    input.sha256    of the tensor's little-endian float32 bytes: check this before any output
    outputs[]       name, shape, samples = [[flat index, value], ...]: the 10 largest values, largest first
    top             classifiers: index and label of the largest output (`top_must_match`: also required to be the same)
    detections      detectors: label, score and box [left, top, right, bottom] in pixels of the input, after thresholds
                    and non-maximum suppression as model.toml states them
    tokens          of the text, as Hugging Face's tokenizers has them
    vector          of the text, pooled as model.toml states it; the cosine of got and expected has to reach tolerance.cosine
    speech          one value a chunk of the sound, the state carried from each to the next

|got - expected| <= tolerance.absolute has to hold for every sample. --spread says how far the outputs move when graph
optimisation is off: other kernels, other summation order, the same model. The tolerances come from that.
"""

import argparse
import hashlib
import json
import os
import sys
import tomllib

import numpy as np
import onnxruntime

import tokenizers

import compact_json
import photos
import voice

SAMPLES = 10


def session(path, optimise=True):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    if not optimise:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def nanodet(outputs, config, labels):
    """[(label, score, box)], best first; see the head of nanodet.py for the meaning of the outputs."""
    found = []
    for stride, scores_name, boxes_name in zip(config["strides"], config["scores"], config["boxes"]):
        scores, bins = outputs[scores_name][0], outputs[boxes_name][0].reshape(-1, 4, config["reg_max"] + 1)
        weights = np.exp(bins - bins.max(axis=2, keepdims=True))
        sides = (weights / weights.sum(axis=2, keepdims=True)) @ np.arange(config["reg_max"] + 1) * stride
        columns = int(len(scores) ** 0.5)
        for cell, label in np.argwhere(scores > config["score_threshold"]):
            x, y = (cell % columns + 0.5) * stride, (cell // columns + 0.5) * stride
            left, top, right, bottom = sides[cell]
            found.append((int(label), float(scores[cell, label]), (x - left, y - top, x + right, y + bottom)))
    found.sort(key=lambda d: -d[1])
    kept = []
    for candidate in found:
        if all(k[0] != candidate[0] or overlap(k[2], candidate[2]) <= config["iou_threshold"] for k in kept):
            kept.append(candidate)
    return [{"label": labels[c], "score": round(s, 4), "box": [round(float(v), 1) for v in b]} for c, s, b in kept]


def overlap(a, b):
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    shared = max(width, 0.0) * max(height, 0.0)
    area = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared
    return shared / area if area > 0 else 0.0


def compute(case, args):
    """(filled-in case, outputs by name) for the stated input."""
    folder = os.path.join(args.repository, case["model"])
    with open(os.path.join(folder, "model.toml"), "rb") as file:
        config = tomllib.load(file)
    run = session(os.path.join(folder, case["version"], "model.onnx"), not args.spread)
    of_kind = of_text if "text" in case else of_sound if "sound" in case else of_photo
    new, outputs = of_kind(json.loads(json.dumps(case)), args, folder, config, run)
    new["outputs"] = [sample(name, value) for name, value in outputs.items()]
    new["made_with"] = f"onnxruntime {onnxruntime.__version__}, CPU provider, 1 thread"
    return new, outputs


def infer(run, inputs):
    names = [o.name for o in run.get_outputs()]
    return dict(zip(names, run.run(names, inputs)))


def of_text(case, args, folder, config, run):
    text = config["text"]
    tokenizer = tokenizers.Tokenizer.from_file(os.path.join(folder, text["tokenizer"]))
    tokenizer.no_padding()
    tokenizer.enable_truncation(text["max_tokens"])
    case["tokens"] = tokenizer.encode(case["text"]).ids
    ids = np.array([case["tokens"]], np.int64)
    names = text["inputs"]
    outputs = infer(run, {names["ids"]: ids, names["mask"]: np.ones_like(ids), names["types"]: np.zeros_like(ids)})
    vector = outputs[config["embed"]["output"]][0].mean(axis=0)
    case["vector"] = [round(float(v), 6) for v in vector / np.linalg.norm(vector)]
    return case, outputs


def of_sound(case, args, folder, config, run):
    requests = voice.requests(case["sound"]["kind"], case["sound"]["chunks"])
    case["sound"]["sha256"] = hashlib.sha256(requests.astype("<f4").tobytes()).hexdigest()
    kept = config["sequence"]["state"][0]
    state, speech = np.zeros(kept["shape"], np.float32), []
    for request in requests:
        outputs = infer(run, {"input": request[None], kept["input"]: state, "sr": np.array(16000, np.int64)})
        state = outputs[kept["output"]]
        speech.append(round(float(outputs["output"][0, 0]), 6))
    case["speech"] = speech
    return case, outputs


def of_photo(case, args, folder, config, run):
    photo = os.path.join(args.photos, case["photo"]["name"])
    with open(photo, "rb") as file:
        photo_sha256 = hashlib.sha256(file.read()).hexdigest()
    p = case["prepare"]
    tensor = photos.prepare(photos.load(photo), p["crop"], p["block"], p["channels"], p["mean"], p["std"])
    outputs = infer(run, {case["input"]["name"]: tensor})
    case["photo"]["sha256"] = photo_sha256
    case["input"] |= {"datatype": "FP32", "shape": list(tensor.shape), "sha256": hashlib.sha256(tensor.astype("<f4").tobytes()).hexdigest()}
    with open(os.path.join(folder, "labels.txt"), encoding="utf-8") as file:
        labels = file.read().splitlines()
    if "classify" in config:
        best = int(outputs[config["classify"]["output"]].argmax())
        case["top"] = {"index": best, "label": labels[best]}
    if "detect" in config:
        case["detections"] = nanodet(outputs, config["detect"], labels)
    return case, outputs


def sample(name, value):
    flat = value.reshape(-1)
    order = np.argsort(-flat, kind="stable")[:SAMPLES]
    return {"name": name, "shape": list(value.shape), "samples": [[int(i), round(float(flat[i]), 6)] for i in order]}


def compare(case, new, outputs):
    """(complaints, largest difference over the samples)."""
    wrong, largest = [], 0.0
    keys = ("photo", "input", "tokens", "sound")
    for key in (*keys, "top") if case.get("top_must_match", True) else keys:
        if case.get(key) != new.get(key):
            wrong.append(f"{key} is {new.get(key)}, expected {case.get(key)}")
    for expected in case.get("outputs", []):
        got = outputs[expected["name"]].reshape(-1)
        for index, value in expected["samples"]:
            largest = max(largest, abs(float(got[index]) - value))
    for got, value in zip(new.get("speech", []), case.get("speech", []), strict=True):
        largest = max(largest, abs(got - value))
    if "vector" in case:
        cosine = float(np.dot(case["vector"], new["vector"]) / np.linalg.norm(case["vector"]) / np.linalg.norm(new["vector"]))
        if cosine < case["tolerance"]["cosine"]:
            wrong.append(f"the vector has turned: cosine {cosine:.6f}")
    if not case.get("outputs"):
        wrong.append("the case has no expected outputs yet; run: cargo xtask models golden --write")
    if largest > case["tolerance"]["absolute"]:
        wrong.append(f"off by {largest:.6g}, tolerance {case['tolerance']['absolute']}")
    if [d["label"] for d in case.get("detections", [])] != [d["label"] for d in new.get("detections", [])]:
        wrong.append(f"detections are {new['detections']}, expected {case.get('detections')}")
    return wrong, largest


def main():
    args = argparse.ArgumentParser()
    args.add_argument("--repository", required=True)
    args.add_argument("--photos", required=True)
    args.add_argument("--write", action="store_true")
    args.add_argument("--spread", action="store_true")
    args.add_argument("cases", nargs="+")
    args = args.parse_args()
    failed = 0
    for path in args.cases:
        with open(path, encoding="utf-8") as file:
            case = json.load(file)
        new, outputs = compute(case, args)
        name = f"{case['model']}/{os.path.basename(path)}"
        if args.write:
            compact_json.dump(path, new)
            print(f"wrote  {name}: {new.get('top') or new.get('detections') or new.get('tokens') or new.get('speech')}")
            continue
        wrong, largest = compare(case, new, outputs)
        failed += bool(wrong)
        print(f"{'FAILED' if wrong else 'ok'}  {name}: largest difference {largest:.3g}, tolerance {case['tolerance']['absolute']}")
        for line in wrong:
            print(f"        {line}")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
