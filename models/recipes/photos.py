"""Photo -> input tensor, by arithmetic that any language repeats bit for bit.

`prepare` is what the golden cases use: crop at whole pixels, average whole blocks of pixels, then (x - mean) / std in
float32. No resampling filter is involved, so a port can check its input by sha256 before it looks at a single output.
`centre_square` (with Pillow's bicubic filter) is for calibration and agreement only.
"""

import numpy as np
from PIL import Image


def load(path):
    """u8 [height, width, 3], RGB. Greyscale is repeated, transparency dropped."""
    return np.asarray(Image.open(path).convert("RGB"))


def normalise(pixels, channels, mean, std):
    """f32 [h, w, 3] RGB -> f32 [1, 3, h, w]; per channel (x - mean) / std, each step rounded to f32."""
    if channels == "bgr":
        pixels = pixels[..., ::-1]
    planes = pixels.astype(np.float32).transpose(2, 0, 1)
    mean, std = np.array(mean, np.float32)[:, None, None], np.array(std, np.float32)[:, None, None]
    return np.ascontiguousarray(((planes - mean) / std)[None])


def prepare(photo, crop, block, channels, mean, std):
    """crop = {x, y, width, height} in pixels; block = b averages b x b pixels (the sum is exact in f32)."""
    x, y, w, h = (crop[k] for k in ("x", "y", "width", "height"))
    if y + h > photo.shape[0] or x + w > photo.shape[1] or w % block or h % block:
        raise ValueError(f"crop {crop} does not fit a photo of {photo.shape[1]} x {photo.shape[0]} in blocks of {block}")
    cut = photo[y : y + h, x : x + w].astype(np.uint32)
    sums = cut.reshape(h // block, block, w // block, block, 3).sum(axis=(1, 3))
    return normalise(sums.astype(np.float32) / np.float32(block * block), channels, mean, std)


def centre_square(photo, size, corner=None):
    """The largest square (centred, or at corner 0 or 1 along the longer side), resized to size x size."""
    h, w = photo.shape[:2]
    side = min(h, w)
    share = 0.5 if corner is None else float(corner)
    left, top = int((w - side) * share), int((h - side) * share)
    square = Image.fromarray(photo[top : top + side, left : left + side])
    return np.asarray(square.resize((size, size), Image.Resampling.BICUBIC))
