"""Reads tensors from a PyTorch checkpoint (.pth) without PyTorch and without running code from the file.

Both layouts are read:
- zip (since PyTorch 1.6): `<root>/data.pkl` is the pickled state dictionary, `<root>/data/<key>` the raw storages;
- legacy: five pickles (magic, protocol, system, state dictionary, storage keys), then per key a little-endian i64 count
  and the raw elements.

A pickle may name any callable, so the unpickler resolves exactly the names in `ALLOWED` and refuses everything else;
none of them does more than build a description of a tensor.
"""

import collections
import pickle
import zipfile

import numpy as np

MAGIC = 0x1950A86A20F9469CFC6C
DTYPES = {
    "FloatStorage": np.dtype("<f4"),
    "DoubleStorage": np.dtype("<f8"),
    "HalfStorage": np.dtype("<f2"),
    "LongStorage": np.dtype("<i8"),
    "IntStorage": np.dtype("<i4"),
}

Storage = collections.namedtuple("Storage", "dtype key count")
Tensor = collections.namedtuple("Tensor", "storage offset shape strides")


def _tensor(storage, offset, shape, strides, *_ignored):
    """Stands in for torch._utils._rebuild_tensor_v2; keeps the description, touches no data."""
    return Tensor(storage, offset, shape, strides)


ALLOWED = {("collections", "OrderedDict"): collections.OrderedDict, ("torch._utils", "_rebuild_tensor_v2"): _tensor}
ALLOWED.update({("torch", name): dtype for name, dtype in DTYPES.items()})


class _Unpickler(pickle.Unpickler):
    def find_class(self, module, name):
        try:
            return ALLOWED[(module, name)]
        except KeyError:
            raise pickle.UnpicklingError(f"the checkpoint names {module}.{name}, which is not allowed") from None

    def persistent_load(self, pid):
        kind, dtype, key, _device, count = pid[:5]
        if kind != "storage":
            raise pickle.UnpicklingError(f"unknown persistent object {kind!r}")
        return Storage(dtype, key, count)


def read(path):
    """{name: numpy array} of the checkpoint's state dictionary."""
    state, storages = _read_zip(path) if zipfile.is_zipfile(path) else _read_legacy(path)
    return {name: _materialise(tensor, storages) for name, tensor in state.items()}


def _read_zip(path):
    archive = zipfile.ZipFile(path)
    root = next(n for n in archive.namelist() if n.endswith("/data.pkl"))[: -len("data.pkl")]
    state = _Unpickler(archive.open(root + "data.pkl")).load()
    storages = {
        t.storage.key: np.frombuffer(archive.read(f"{root}data/{t.storage.key}"), t.storage.dtype) for t in state.values()
    }
    return state, storages


def _read_legacy(path):
    with open(path, "rb") as file:
        magic, _protocol, _system, state, keys = (_Unpickler(file).load() for _ in range(5))
        if magic != MAGIC:
            raise ValueError(f"{path} is not a PyTorch checkpoint")
        dtypes = {t.storage.key: t.storage.dtype for t in state.values()}
        storages = {}
        for key in keys:
            count = int(np.frombuffer(file.read(8), "<i8")[0])
            storages[key] = np.frombuffer(file.read(count * dtypes[key].itemsize), dtypes[key], count)
    return state, storages


def _materialise(tensor, storages):
    data = storages[tensor.storage.key]
    last = tensor.offset + sum((n - 1) * s for n, s in zip(tensor.shape, tensor.strides))
    if 0 in tensor.shape or tensor.offset < 0 or min(tensor.strides, default=0) < 0 or last >= len(data):
        raise ValueError("a tensor of the checkpoint lies outside its storage")
    strides = [s * data.itemsize for s in tensor.strides]
    return np.lib.stride_tricks.as_strided(data[tensor.offset :], tensor.shape, strides).copy()
