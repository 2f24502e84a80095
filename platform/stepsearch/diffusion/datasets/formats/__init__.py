"""Formats of pictures, told apart by what lies at a path."""

from __future__ import annotations

import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from stepsearch.diffusion.datasets.formats.arrays import idx_files, open_idx, open_npz
from stepsearch.diffusion.datasets.formats.base import BROKEN, Pictures, quiet
from stepsearch.diffusion.datasets.formats.cifar import is_cifar, open_cifar
from stepsearch.diffusion.datasets.formats.files import SUFFIXES, Folder, Zip
from stepsearch.diffusion.datasets.formats.parquet import Parquet, has_pictures
from stepsearch.errors import UserError

__all__ = [
    "BROKEN",
    "FORMATS",
    "SUFFIXES",
    "Format",
    "Pictures",
    "format_of",
    "open_pictures",
    "quiet",
]


class Format(NamedTuple):
    """How pictures are stored."""

    name: str
    fits: Callable[[Path], bool]
    """Whether what lies at a path looks like it."""
    open: Callable[[Path], Pictures]


FORMATS = (
    Format("CIFAR for Python", is_cifar, open_cifar),
    Format("idx", lambda path: bool(idx_files(path)), lambda path: open_idx(idx_files(path))),
    Format("Parquet", has_pictures, Parquet.open),
    Format("npz", lambda path: path.suffix == ".npz", open_npz),
    Format("zip", lambda path: path.suffix == ".zip", Zip.open),
    Format("image files", Path.is_dir, Folder.open),
)
"""The first that fits is taken."""


_DAMAGED = (
    *BROKEN,
    *(EOFError, KeyError, IndexError, MemoryError, RuntimeError),
    *(tarfile.TarError, zipfile.BadZipFile),
)
"""What libraries raise of archives that are; seen by damaging files of all formats."""


def format_of(path: Path) -> Format:
    """Raises UserError if nothing is there, or nothing that could be a data set."""
    try:
        found = next((format for format in FORMATS if format.fits(path)), None)
        exists = path.exists()
    except OSError as error:
        raise UserError(
            f"dataset.path must be a place that can be read, got {str(path)!r}: {error.strerror}"
        ) from None
    if not exists:
        raise UserError(f"dataset.path must exist, got {str(path)!r}")
    if found is None:
        raise UserError(
            "dataset.path must be a folder of image files, a zip of them, npz, Parquet, idx or "
            f"CIFAR for Python, got {str(path)!r}"
        )
    return found


def open_pictures(path: Path) -> Pictures:
    """The pictures at a path, none of them read yet.

    Raises UserError like `format_of`, and if there is no picture, or the file is damaged.
    """
    try:
        pictures = format_of(path).open(path)
    except _DAMAGED as error:
        if isinstance(error, UserError):
            raise
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"dataset.path must be a file that is whole, got {path}: {reason}"
        ) from None
    if not len(pictures):
        raise UserError(f"dataset.path holds no images ({', '.join(SUFFIXES)}): {path}")
    return pictures
