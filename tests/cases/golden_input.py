"""The input of a golden case on standard output, little-endian float32, after its digest has been checked: one tensor of a
photo, or a sound's requests one after the other.

    golden_input.py case.json PHOTOS
"""

import hashlib
import json
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parents[2] / "models/recipes"))
import photos  # noqa: E402
import voice  # noqa: E402


def of_photo(case):
    prepare = case["prepare"]
    photo = photos.load(pathlib.Path(sys.argv[2]) / case["photo"]["name"])
    tensor = photos.prepare(
        photo, prepare["crop"], prepare["block"], prepare["channels"], prepare["mean"], prepare["std"])
    return tensor, case["input"]["sha256"]


def of_sound(case):
    sound = case["sound"]
    return voice.requests(sound["kind"], sound["chunks"]), sound["sha256"]


case = json.loads(pathlib.Path(sys.argv[1]).read_text())
tensor, digest = of_sound(case) if "sound" in case else of_photo(case)
data = tensor.astype("<f4").tobytes()
assert hashlib.sha256(data).hexdigest() == digest, "the input is not the case's"
sys.stdout.buffer.write(data)
