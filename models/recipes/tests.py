"""Unit tests of the recipes: `cargo xtask models test`."""

import os
import pickle
import tempfile
import unittest
import zipfile

import numpy as np

import calibrate
import golden
import photos
import quantise_qdq
import torch_checkpoint
import voice


class Call:
    """Pickles as a call of any function, which is how a hostile checkpoint runs code."""

    def __init__(self, function, *args):
        self.function, self.args = function, args

    def __reduce__(self):
        return self.function, self.args


class Checkpoint(unittest.TestCase):
    def read(self, state, data=b""):
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "model.pth")
            with zipfile.ZipFile(path, "w") as archive:
                archive.writestr("m/data.pkl", state)
                archive.writestr("m/data/0", data)
            return torch_checkpoint.read(path)

    def state(self, offset, shape, strides, storage="FloatStorage"):
        """What PyTorch writes, spelt in pickle's protocol 0; the storage is the persistent object ("storage", type, "0", "cpu", 4)."""
        numbers = lambda values: "(" + "".join(f"I{v}\n" for v in values) + "t"
        pid = f"(S'storage'\nctorch\n{storage}\nS'0'\nS'cpu'\nI4\ntQ"
        return f"(dS'w'\nctorch._utils\n_rebuild_tensor_v2\n({pid}I{offset}\n{numbers(shape)}{numbers(strides)}tRs.".encode()

    def test_reads_a_transposed_view(self):
        data = np.array([1, 2, 3, 4], "<f4").tobytes()
        got = self.read(self.state(0, [2, 2], [1, 2]), data)["w"]
        np.testing.assert_array_equal(got, [[1, 3], [2, 4]])

    def test_refuses_every_other_name(self):
        for hostile in (Call(os.system, "true"), Call(eval, "1"), Call(getattr, 1, "real")):
            with self.assertRaisesRegex(pickle.UnpicklingError, "not allowed"):
                self.read(pickle.dumps({"w": hostile}))

    def test_refuses_a_tensor_outside_its_storage(self):
        data = np.zeros(4, "<f4").tobytes()
        for offset, shape, strides in ((0, [5], [1]), (4, [1], [1]), (-1, [1], [1]), (0, [2], [-1])):
            with self.assertRaisesRegex(ValueError, "outside its storage"):
                self.read(self.state(offset, shape, strides), data)


class Quantisation(unittest.TestCase):
    def test_zero_is_exact_and_the_range_is_covered(self):
        for low, high in ((-1.0, 3.0), (0.0, 6.0), (2.0, 5.0), (-7.0, -1.0)):
            scale, zero = quantise_qdq.activation_parameters(low, high)
            reach = [(0 - float(zero)) * float(scale), (255 - float(zero)) * float(scale)]
            self.assertLessEqual(reach[0], min(low, 0) + float(scale) / 2)
            self.assertGreaterEqual(reach[1], max(high, 0) - float(scale) / 2)

    def test_two_products_fit_into_16_bits(self):
        self.assertLessEqual(2 * 255 * quantise_qdq.WEIGHT_LIMIT, 32767)

    def test_ranges_are_rounded_outwards(self):
        self.assertEqual(calibrate.outwards(1.23451, True), 1.235)
        self.assertEqual(calibrate.outwards(-1.23451, False), -1.235)
        self.assertEqual(calibrate.outwards(0.0, True), 0.0)


class Photos(unittest.TestCase):
    def test_prepare_averages_blocks_and_swaps_channels(self):
        photo = np.arange(4 * 4 * 3, dtype=np.uint8).reshape(4, 4, 3)
        crop = {"x": 2, "y": 0, "width": 2, "height": 2}
        got = photos.prepare(photo, crop, 2, "bgr", [0, 0, 0], [1, 1, 1])
        expected = photo[0:2, 2:4].reshape(-1, 3).mean(axis=0)[::-1]
        np.testing.assert_array_equal(got.reshape(-1), expected.astype(np.float32))

    def test_a_crop_outside_the_photo_is_refused(self):
        photo = np.zeros((4, 4, 3), np.uint8)
        for crop, block in (({"x": 3, "y": 0, "width": 2, "height": 2}, 1), ({"x": 0, "y": 0, "width": 3, "height": 3}, 2)):
            with self.assertRaises(ValueError):
                photos.prepare(photo, crop, block, "rgb", [0, 0, 0], [1, 1, 1])


class Voice(unittest.TestCase):
    def test_each_chunk_begins_with_the_end_of_the_one_before(self):
        requests = voice.requests("voice", 3)
        self.assertEqual(requests.shape, (3, 576))
        np.testing.assert_array_equal(requests[1:, :64], requests[:-1, -64:])
        np.testing.assert_array_equal(requests[0, :64], np.zeros(64))
        self.assertEqual(float(np.abs(requests).max()), 0.5)
        self.assertFalse(voice.requests("silence", 2).any())


class Detections(unittest.TestCase):
    CONFIG = {
        "strides": [8], "scores": ["s"], "boxes": ["b"], "reg_max": 10, "score_threshold": 0.4, "iou_threshold": 0.5,
    }

    def outputs(self, *found):
        """(cell, class, score); every side of every box is exactly 1 stride from the cell's centre."""
        scores, boxes = np.zeros((1, 4, 2), np.float32), np.zeros((1, 4, 44), np.float32)
        boxes.reshape(4, 4, 11)[:, :, 1] = 100.0
        for cell, label, score in found:
            scores[0, cell, label] = score
        return {"s": scores, "b": boxes}

    def test_box_of_a_cell(self):
        got = golden.nanodet(self.outputs((3, 1, 0.9)), self.CONFIG, ["cat", "dog"])
        self.assertEqual(got, [{"label": "dog", "score": 0.9, "box": [4.0, 4.0, 20.0, 20.0]}])

    def test_overlapping_boxes_of_one_class_become_one(self):
        config = self.CONFIG | {"iou_threshold": 0.3}  # neighbours overlap by a third
        self.assertEqual(len(golden.nanodet(self.outputs((0, 0, 0.9), (1, 0, 0.8)), config, ["cat", "dog"])), 1)
        self.assertEqual(len(golden.nanodet(self.outputs((0, 0, 0.9), (1, 1, 0.8)), config, ["cat", "dog"])), 2)
        self.assertEqual(len(golden.nanodet(self.outputs((0, 0, 0.9), (1, 0, 0.8)), self.CONFIG, ["cat", "dog"])), 2)


if __name__ == "__main__":
    unittest.main()
