"""Pictures as a denoiser sees them: prepared once a machine, and shared by its processes."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import PIL

from stepsearch.diffusion.datasets.formats import BROKEN, Pictures, quiet
from stepsearch.diffusion.datasets.formats.arrays import beside
from stepsearch.diffusion.datasets.places import cache
from stepsearch.diffusion.datasets.preparing import prepared
from stepsearch.errors import UserError

log = logging.getLogger("stepsearch.datasets")

Order = npt.NDArray[np.int64]
_CHUNK = 1024
_VERSION = 2
"""Of what is done to a picture."""
_PIXELS, _FACTS = "pixels", "facts.json"


@dataclass(frozen=True)
class Stored:
    """Pictures that could be read: those to train on, then those that are held out."""

    pixels: npt.NDArray[np.uint8]
    """[N, C, H, W], read from the disk where it is looked at."""
    labels: npt.NDArray[np.int64] | None
    """[N]"""
    train: int
    """How many there are to train on."""
    broken: Sequence[str]
    """The names of pictures that cannot be read."""
    digest: str
    """Of the pixels."""


@dataclass(frozen=True)
class Wanted:
    """Pictures to prepare at one size."""

    pictures: Pictures
    train: Order
    held_out: Order
    size: int
    channels: int

    def rows(self) -> Iterator[tuple[int, npt.NDArray[np.uint8] | None]]:
        """The index of each picture, and it as uint8 [C, H, W], None if it cannot be read."""
        order = np.concatenate([self.train, self.held_out]).tolist()
        with quiet(), ThreadPoolExecutor(os.cpu_count()) as threads:
            for start in range(0, len(order), _CHUNK):
                chunk = order[start : start + _CHUNK]
                yield from zip(chunk, threads.map(self._row, chunk), strict=True)

    def _row(self, index: int) -> npt.NDArray[np.uint8] | None:
        try:
            with self.pictures.read(index) as picture:
                return prepared(picture, self.size, self.channels)
        except BROKEN as error:
            if isinstance(error, OSError) and error.errno is not None:
                name = self.pictures.names[index]  # of the disk, not of the picture: it may pass
                raise UserError(
                    f"dataset.path must be readable, got {name}: {error.strerror}"
                ) from None
            return None


def stored(path: Path, key: str, wanted: Callable[[], Wanted]) -> Stored:
    """What `wanted` says of the files at `path`, from this machine's cache or prepared for it.

    `key` is all that it depends on but the files. In memory if there is no room in the cache.
    """
    from filelock import FileLock

    home = cache() / "prepared" / _digest(path, key)
    try:
        home.mkdir(parents=True, exist_ok=True)
        with FileLock(home / "lock"):
            found = _opened(home)
            if found is None:
                _fill(home, wanted())
                found = _opened(home)
        if found is not None:
            return found
    except OSError as error:
        log.warning("images are kept in memory, %s cannot be used: %s", home, error)
    memory = BytesIO()
    facts = _write(wanted(), memory)
    return _as_stored(np.frombuffer(memory.getbuffer(), np.uint8), facts)


def _digest(path: Path, key: str) -> str:
    """Another one when a file has changed."""
    digest = hashlib.sha256(f"{_VERSION} {PIL.__version__} {path} {key}".encode())
    for file in sorted(path.rglob("*")) if path.is_dir() else [path, *beside(path)]:
        with suppress(FileNotFoundError):  # gone, or a link to nothing
            facts = file.stat()
            digest.update(os.fsencode(file))
            digest.update(f"\n{facts.st_size} {facts.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:24]


def _fill(home: Path, wanted: Wanted) -> None:
    """The facts come last: what was cut off begins anew. Nothing is left of what has no room."""
    part = home / f"{uuid.uuid4().hex[:8]}.part"
    try:
        with part.open("wb") as file:
            facts = _write(wanted, file)
            file.flush()
            os.fsync(file.fileno())
        part.replace(home / _PIXELS)
        part.write_text(json.dumps(facts))
        part.replace(home / _FACTS)
    finally:
        part.unlink(missing_ok=True)


def _write(wanted: Wanted, file: BinaryIO) -> dict[str, Any]:
    log.info("preparing %d images", len(wanted.train) + len(wanted.held_out))
    digest, whole, broken = hashlib.sha256(), [], []
    for index, row in wanted.rows():
        if row is None:
            broken.append(index)
            continue
        whole.append(index)
        data = row.tobytes()
        digest.update(data)
        file.write(data)
    labels, names = wanted.pictures.labels, wanted.pictures.names
    return {
        "shape": [len(whole), wanted.channels, wanted.size, wanted.size],
        "labels": None if labels is None else [labels[index] for index in whole],
        "train": len(wanted.train) - int(np.isin(broken, wanted.train).sum()),
        "broken": [names[index] for index in sorted(broken)],
        "digest": digest.hexdigest(),
    }


def _opened(home: Path) -> Stored | None:
    """None where it is not there, or not whole."""
    try:
        facts = json.loads((home / _FACTS).read_text())
        whole = (home / _PIXELS).stat().st_size == math.prod(facts["shape"])
    except (FileNotFoundError, ValueError, KeyError):
        return None
    if not whole or not facts["shape"][0]:  # nothing cannot be mapped
        return _as_stored(np.empty(0, np.uint8), facts) if whole else None
    return _as_stored(np.memmap(home / _PIXELS, np.uint8, "c"), facts)


def _as_stored(pixels: npt.NDArray[np.uint8], facts: Mapping[str, Any]) -> Stored:
    labels = facts["labels"]
    return Stored(
        pixels.reshape(facts["shape"]),
        None if labels is None else np.array(labels, dtype=np.int64),
        facts["train"],
        facts["broken"],
        facts["digest"],
    )
