"""Arrays of pixels: NumPy's npz and the idx files of MNIST and its family."""

from __future__ import annotations

import gzip
import re
import struct
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from numpy.lib.format import read_array_header_1_0, read_array_header_2_0, read_magic
from PIL import Image

from stepsearch.diffusion.datasets.formats.base import (
    PARTS,
    Pictures,
    as_image,
    both_parts,
    part,
    part_word,
)
from stepsearch.errors import UserError

MOST_BYTES = 32 * 2**30
"""Of the pixels of one file; a packed file may claim any number."""

_IMAGES = ("images", "x", "data", "arr_0")
_LABELS = ("labels", "y", "label", "arr_1")
_IDX = re.compile(r"(.*)images([-.]idx)3([-.]ubyte(?:\.gz)?)")
_HEADER = struct.Struct(">HBB")
_UINT8 = 8


class Chunk(NamedTuple):
    """Some pictures of one part."""

    name: str
    pixels: npt.NDArray[np.uint8]
    """[N, H, W], [N, H, W, 1] or [N, H, W, 3]"""
    labels: npt.NDArray[np.int64] | None
    held_out: bool | None


@dataclass(frozen=True)
class Arrays(Pictures):
    """Pictures of one size in memory."""

    chunks: Sequence[npt.NDArray[np.uint8]]
    starts: npt.NDArray[np.int64]
    """The first index of each chunk."""

    @classmethod
    def of(cls, chunks: Sequence[Chunk], classes: Sequence[str] = ()) -> Arrays:
        """Labels are kept as they are where `classes` says their names, or else numbered in order.

        Raises UserError if there are labels of some chunks only, or others than pictures.
        """
        names = [f"{c.name} row {row}" for c in chunks for row in range(len(c.pixels))]
        parts = [c.held_out for c in chunks for _ in range(len(c.pixels))]
        labels, found = _all_labels(chunks, classes)
        sizes = [len(c.pixels) for c in chunks]
        starts = np.cumsum([0, *sizes[:-1]])
        return cls(names, labels, found, both_parts(parts), [c.pixels for c in chunks], starts)

    def read(self, index: int) -> Image.Image:
        chunk = int(np.searchsorted(self.starts, index, side="right")) - 1
        return as_image(self.chunks[chunk][index - self.starts[chunk]])


def _all_labels(
    chunks: Sequence[Chunk], classes: Sequence[str]
) -> tuple[list[int] | None, Sequence[str]]:
    for chunk in chunks:
        if chunk.labels is not None and len(chunk.labels) != len(chunk.pixels):
            raise UserError(
                "dataset.path must hold a label for each picture, got "
                f"{len(chunk.labels)} labels of {len(chunk.pixels)} pictures: {chunk.name}"
            )
    given = [chunk.labels for chunk in chunks if chunk.labels is not None]
    if len(given) < len(chunks):
        return None, ()
    labels = np.concatenate(given)
    if classes:
        return labels.tolist(), classes
    values, numbers = np.unique(labels, return_inverse=True)
    return numbers.tolist(), [str(value) for value in values]


def open_npz(file: Path) -> Arrays:
    """`images` and `labels`, `x` and `y`, `arr_0` and `arr_1`, alone or with a part (`x_train`,
    `test_images`).

    Raises UserError if there are no such arrays, or they are not pictures.
    """
    with file.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
        keys = {(_role(key), part_word(key)): key for key in arrays.files if _role(key)}
        parts = sorted({p for role, p in keys if role == "images"}, key=str)
        if not parts:
            shown = ", ".join(arrays.files[:10]) or "nothing"
            raise UserError(
                f"dataset.path must hold an array named {', '.join(_IMAGES)}, got {shown}: {file}"
            )
        return Arrays.of([_from_npz(arrays, keys, p, file) for p in parts])


def _role(key: str) -> str | None:
    """What an array holds by its name, in which a part may be named before or after."""
    words = [word for word in (key, *key.split("_")) if part_word(word) is None]
    if any(word in _IMAGES for word in words):
        return "images"
    return "labels" if any(word in _LABELS for word in words) else None


def _from_npz(
    arrays: Mapping[str, Any], keys: Mapping[Any, str], which: str | None, file: Path
) -> Chunk:
    key, labels_key = keys["images", which], keys.get(("labels", which))
    for name in (key, labels_key):
        if name is not None:
            _check_size(file, name)
    pixels = _as_pixels(arrays[key], f"{file.name} {key}")
    labels = None if labels_key is None else _as_labels(arrays[labels_key], labels_key)
    return Chunk(f"{file.name} {key}", pixels, labels, part(key))


def _check_size(file: Path, key: str) -> None:
    """Raise UserError before an array is unpacked that no machine holds, or that is not there."""
    with zipfile.ZipFile(file) as archive, archive.open(f"{key}.npy") as entry:
        size = archive.getinfo(f"{key}.npy").file_size
        read = {(1, 0): read_array_header_1_0, (2, 0): read_array_header_2_0}
        shape, _, dtype = read[read_magic(entry)](entry)
    claimed = int(np.prod(shape, dtype=object)) * dtype.itemsize
    if max(size, claimed) > MOST_BYTES or claimed > size:
        raise UserError(
            f"dataset.path must hold arrays of at most {MOST_BYTES} bytes that are all there, "
            f"got {claimed} of {size} bytes: {file.name} {key}"
        )


def _as_pixels(array: npt.NDArray[Any], name: str) -> npt.NDArray[np.uint8]:
    """[N, H, W] or [N, H, W, C] of any accepted layout."""
    if array.ndim == 4 and array.shape[3] not in (1, 3) and array.shape[1] in (1, 3):
        array = array.transpose(0, 2, 3, 1)
    colours = array.ndim == 3 or (array.ndim == 4 and array.shape[3] in (1, 3))
    if array.dtype != np.uint8 or not colours or not array.size:
        raise UserError(
            "dataset.path must hold pictures as uint8 [N, H, W], [N, H, W, 1 or 3] or "
            f"[N, 1 or 3, H, W], got {array.dtype} {list(array.shape)}: {name}"
        )
    return array


def _as_labels(array: npt.NDArray[Any], name: str) -> npt.NDArray[np.int64]:
    flat = array.reshape(-1) if array.ndim == 2 and array.shape[1] == 1 else array
    if flat.ndim != 1 or not np.issubdtype(flat.dtype, np.integer):
        raise UserError(
            "dataset.path must hold labels as integers [N], got "
            f"{array.dtype} {list(array.shape)}: {name}"
        )
    return flat.astype(np.int64)


def idx_files(path: Path) -> list[Path]:
    """The files of pictures that are named as MNIST's: the one at a path, or all in a folder."""
    files = path.iterdir() if path.is_dir() else [path]
    found = sorted(file for file in files if _IDX.fullmatch(file.name) and file.name[0] != ".")
    return [file for file in found if file.suffix != ".gz" or file.with_suffix("") not in found]


def open_idx(files: Sequence[Path]) -> Arrays:
    """Files of pictures; the labels of each are looked for beside it.

    Raises UserError if one is not what its name says, or they are of several data sets.
    """
    sets = {_without_part(file.name) for file in files}
    if len(sets) > 1:
        raise UserError(
            "dataset.path must hold idx files of one data set, or be one of them, got "
            f"{', '.join(file.name for file in files[:6])}"
        )
    return Arrays.of([_from_idx(file) for file in files])


def _without_part(name: str) -> str:
    """What the files of a data set have in common: all before `images`, but for the part."""
    words = re.split(r"[\W_]+", re.split("images", name.lower())[0])
    return " ".join(word for word in words if word not in PARTS)


def beside(file: Path) -> list[Path]:
    """Files that a data set at `file` needs besides: the labels of an idx file."""
    match = _IDX.fullmatch(file.name)
    return [] if match is None else list(_labels_beside(file, *match.groups()))


def _from_idx(file: Path) -> Chunk:
    others = beside(file)
    labels = _read_idx(others[0], 1).astype(np.int64) if others else None
    return Chunk(file.name, _read_idx(file, 3), labels, part(file.name))


def _labels_beside(file: Path, start: str, idx: str, end: str) -> Iterator[Path]:
    for ending in (end, end.removesuffix(".gz"), f"{end.removesuffix('.gz')}.gz"):
        other = file.with_name(f"{start}labels{idx}1{ending}")
        if other.is_file():
            yield other


def _read_idx(file: Path, dimensions: int) -> npt.NDArray[np.uint8]:
    """An idx file: 0, the type, the number of dimensions, each as 4 bytes, and the values."""
    with gzip.open(file) if file.suffix == ".gz" else file.open("rb") as stream:
        try:
            zero, kind, found = _HEADER.unpack(stream.read(_HEADER.size))
            shape = struct.unpack(f">{dimensions}I", stream.read(4 * dimensions))
            size = int(np.prod(shape, dtype=object))
            right = (zero, kind, found) == (0, _UINT8, dimensions) and size <= MOST_BYTES
            values = stream.read(size + 1) if right else b""
        except (struct.error, EOFError, gzip.BadGzipFile) as error:
            raise OSError(str(error)) from None
    if not right or len(values) != size or not size:
        raise UserError(
            f"dataset.path must hold idx files of uint8 with {dimensions} dimensions, all there, "
            f"got {file.name}"
        )
    return np.frombuffer(values, np.uint8).reshape(shape)
