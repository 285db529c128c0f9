"""The input tensor of a golden case on standard output, little-endian float32, after its digest has been checked.

    golden_input.py case.json PHOTOS
"""

import hashlib
import json
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parents[2] / "models/recipes"))
import photos  # noqa: E402

case = json.loads(pathlib.Path(sys.argv[1]).read_text())
prepare = case["prepare"]
photo = photos.load(pathlib.Path(sys.argv[2]) / case["photo"]["name"])
tensor = photos.prepare(photo, prepare["crop"], prepare["block"], prepare["channels"], prepare["mean"], prepare["std"])
data = tensor.astype("<f4").tobytes()
assert hashlib.sha256(data).hexdigest() == case["input"]["sha256"], "the input is not the case's"
sys.stdout.buffer.write(data)
