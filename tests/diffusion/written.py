"""Forty digits in every format of pictures."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import struct
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from sklearn.datasets import load_digits

from stepsearch.config import parse
from stepsearch.diffusion.datasets import Dataset, ImagesConfig
from stepsearch.pixels import scaled

TRAIN, TEST, SIDE = 30, 10, 8
Pixels = npt.NDArray[np.uint8]


def digits() -> tuple[Pixels, Pixels]:
    """40 digits [N, 8, 8] and their labels: the first 30 are for training."""
    data = load_digits()
    pixels = (data.images[: TRAIN + TEST] * 15).astype(np.uint8)
    return pixels, data.target[: TRAIN + TEST].astype(np.uint8)


PIXELS, LABELS = digits()
PARTS = {"train": slice(0, TRAIN), "test": slice(TRAIN, None)}


def png(pixels: Pixels) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def files() -> dict[str, bytes]:
    """An image file each, in a folder a part and a class."""
    return {
        f"{part}/{LABELS[i]}/{i:03}.png": png(PIXELS[i])
        for part, rows in PARTS.items()
        for i in range(len(PIXELS))[rows]
    }


def folder(root: Path) -> Path:
    for name, data in files().items():
        (root / "digits" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "digits" / name).write_bytes(data)
    return root / "digits"


def archive(root: Path) -> Path:
    with zipfile.ZipFile(root / "digits.zip", "w") as out:
        for name, data in files().items():
            out.writestr(name, data)
    return root / "digits.zip"


def npz(root: Path) -> Path:
    arrays = {}
    for part, rows in PARTS.items():
        arrays |= {f"x_{part}": PIXELS[rows], f"y_{part}": LABELS[rows]}
    np.savez_compressed(root / "digits.npz", **arrays)
    return root / "digits.npz"


def idx(array: Pixels) -> bytes:
    header = struct.pack(">HBB", 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + array.tobytes()


def mnist(root: Path) -> Path:
    (root / "digits").mkdir()
    for name, rows in (("train", PARTS["train"]), ("t10k", PARTS["test"])):
        images, labels = f"{name}-images-idx3-ubyte.gz", f"{name}-labels-idx1-ubyte"
        (root / "digits" / images).write_bytes(gzip.compress(idx(PIXELS[rows])))
        (root / "digits" / labels).write_bytes(idx(LABELS[rows]))
    return root / "digits"


def parquet(root: Path) -> Path:
    """As `push_to_hub` writes it: a struct of bytes and path, and the classes' names aside."""
    names = {"names": list("0123456789"), "_type": "ClassLabel"}
    info = {"info": {"features": {"image": {"_type": "Image"}, "label": names}}}
    (root / "digits" / "data").mkdir(parents=True)
    for part, rows in PARTS.items():
        images = [{"bytes": png(pixels), "path": None} for pixels in PIXELS[rows]]
        table = pa.table({"image": images, "label": pa.array(LABELS[rows].astype(int))})
        table = table.replace_schema_metadata({"huggingface": json.dumps(info)})
        file = root / "digits" / "data" / f"{part}-00000-of-00001.parquet"
        pq.write_table(table, file, row_group_size=7)
    return root / "digits"


WRITERS: dict[str, Callable[[Path], Path]] = {
    "image files": folder,
    "zip": archive,
    "npz": npz,
    "idx": mnist,
    "Parquet": parquet,
}


def load(path: Path, **fields: Any) -> Dataset:
    fields = {"path": str(path), "size": SIDE, "channels": 1} | fields
    return as_trained(parse(ImagesConfig, fields, "dataset").load())


def as_trained(data: Dataset) -> Dataset:
    """With the values that a denoiser sees."""
    return replace(data, train=scaled(data.train), held_out=scaled(data.held_out))


class Python2(pickle._Pickler):  # type: ignore[name-defined,misc]
    """Writes bytes as Python 2 wrote its strings, as the published archives hold them."""

    dispatch: ClassVar[dict[Any, Any]] = dict(pickle._Pickler.dispatch)  # type: ignore[attr-defined]

    def save_str(self, data: bytes) -> None:
        self.write(pickle.BINSTRING + struct.pack("<i", len(data)) + data)
        self.memoize(data)

    dispatch[bytes] = save_str


def python2(value: Any) -> bytes:
    stream = io.BytesIO()
    Python2(stream, protocol=2).dump(value)
    return stream.getvalue()


def cifar(root: Path, kind: int = 10) -> tuple[Path, Pixels]:
    """An archive with 12 colour pictures, 10 of them for training."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (12, 3, 32, 32), dtype=np.uint8)
    names = [f"class {i}".encode() for i in range(kind)]
    if kind == 10:
        labels, meta = b"labels", {"batches.meta": {b"label_names": names}}
        parts = {f"data_batch_{i + 1}": slice(2 * i, 2 * i + 2) for i in range(5)}
        parts["test_batch"] = slice(10, 12)
    else:
        labels, meta = b"fine_labels", {"meta": {b"fine_label_names": names}}
        parts = {"train": slice(0, 10), "test": slice(10, 12)}
    file = root / f"cifar-{kind}-python.tar.gz"
    with tarfile.open(file, "w:gz") as out:
        batches = {
            name: {b"data": pixels[rows].reshape(-1, 3072), labels: [*range(12)[rows]]}
            for name, rows in parts.items()
        }
        for name, value in {**meta, **batches}.items():
            data = python2(value)
            entry = tarfile.TarInfo(f"cifar-{kind}/{name}")
            entry.size = len(data)
            out.addfile(entry, io.BytesIO(data))
    return file, pixels
