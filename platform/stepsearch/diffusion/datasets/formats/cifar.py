"""CIFAR-10 and CIFAR-100 as they are published for Python: pickles, which are read without running
anything."""

from __future__ import annotations

import pickle
import tarfile
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from stepsearch.diffusion.datasets.formats.arrays import Arrays, Chunk
from stepsearch.errors import UserError

_SIDE = 32
_MOST_BYTES = 512 * 2**20
_BATCHES = tuple(f"data_batch_{i}" for i in range(1, 6))
_FILES = (*_BATCHES, "test_batch", "train", "test")
"""Of both data sets."""
_NAMES = {"batches.meta": b"label_names", "meta": b"fine_label_names"}
_LABELS = (b"labels", b"fine_labels")


class _Array:
    """Stands for NumPy's array and its type in a pickle: takes what they are made of, no more."""

    def __init__(self, *made_of: Any) -> None:
        self.state: Any = made_of

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Unpickler(pickle.Unpickler):
    """Knows containers, numbers, bytes and stand-ins: nothing that could run."""

    def find_class(self, module: str, name: str) -> Any:
        if module.split(".")[0] == "numpy" and name in ("_reconstruct", "ndarray", "dtype"):
            return _Array
        raise pickle.UnpicklingError(f"{module}.{name}")


def is_cifar(path: Path) -> bool:
    """Whether it is one of the archives by its name, or such an archive unpacked."""
    if path.is_dir():
        return any((path / name).is_file() for name in _NAMES)
    return path.name.startswith("cifar") and path.name.endswith((".tar.gz", ".tgz", ".tar"))


def open_cifar(path: Path) -> Arrays:
    """32 x 32 colour pictures with their classes. CIFAR-100's are the 100 fine ones.

    Raises UserError if the archive or the folder holds something else.
    """
    files = _contents(path)
    batches = [name for name in _FILES if name in files]
    names = [name for name in _NAMES if name in files]
    if not names or not batches:
        raise UserError(f"dataset.path must hold CIFAR's batches and their names, got {path}")
    meta = _unpickled(files[names[0]], names[0])
    classes = [str(name, "utf-8") for name in meta.get(_NAMES[names[0]], ())]
    return Arrays.of([_chunk(name, _unpickled(files[name], name)) for name in batches], classes)


def _contents(path: Path) -> dict[str, bytes]:
    """The files that matter, of a folder or of an archive."""
    wanted = {*_FILES, *_NAMES}
    if path.is_dir():
        return {f.name: _limited(f.open("rb")) for f in path.iterdir() if f.name in wanted}
    with tarfile.open(path) as archive:
        members = {Path(member.name).name: member for member in archive if member.isfile()}
        return {
            name: _limited(archive.extractfile(members[name])) for name in wanted & members.keys()
        }


def _limited(stream: Any) -> bytes:
    with stream:
        data: bytes = stream.read(_MOST_BYTES + 1)
    if len(data) > _MOST_BYTES:
        raise UserError(f"dataset.path must hold files of at most {_MOST_BYTES} bytes, got more")
    return data


def _unpickled(data: bytes, name: str) -> Mapping[bytes, Any]:
    try:
        found = _Unpickler(BytesIO(data), encoding="bytes").load()
    except Exception as error:  # what a damaged pickle raises is anything
        raise UserError(
            f"dataset.path must hold CIFAR's pickles and nothing else, got {name}: {error}"
        ) from None
    return found if isinstance(found, dict) else {}


def _chunk(name: str, batch: Mapping[bytes, Any]) -> Chunk:
    labels = next((batch[key] for key in _LABELS if key in batch), None)
    array = batch.get(b"data")
    raw = array.state[-1] if isinstance(array, _Array) and array.state else None
    if not isinstance(raw, bytes) or len(raw) % (3 * _SIDE**2) or not isinstance(labels, list):
        raise UserError(f"dataset.path must hold CIFAR's pixels and labels, got {name}")
    pixels = np.frombuffer(raw, np.uint8).reshape(-1, 3, _SIDE, _SIDE).transpose(0, 2, 3, 1)
    return Chunk(name, pixels, np.array(labels, dtype=np.int64), name in ("test_batch", "test"))
