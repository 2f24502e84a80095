"""A folder of image files, flat or with one subfolder a class."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageOps
from pydantic import Field, field_validator
from torch import Tensor

from stepsearch.config import AbsolutePath
from stepsearch.diffusion.datasets.base import Dataset, DatasetConfig, split
from stepsearch.errors import UserError

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")
"""What is looked for in a file, whatever its suffix: Pillow gives others to programs like
Ghostscript."""

_MOST_PIXELS = 100_000_000

_BROKEN = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)
"""What Pillow raises on files that it cannot read; seen by damaging files of all these types."""


class ImageFolderConfig(DatasetConfig):
    """All images below `path`; where each lies in a subfolder, the subfolder is its class."""

    kind: Literal["images"] = "images"
    path: AbsolutePath
    """The folder, wherever the worker runs; hidden files and files with other suffixes are passed
    over."""
    size: int = Field(ge=4, le=1024)
    """Height and width in pixels after cropping and resizing."""
    channels: Literal[1, 3] = 3
    """1: grey, 3: colour."""
    name: str | None = None
    """What metrics are named after; the folder's name where none is given."""
    held_out: float = Field(default=0.2, gt=0, lt=1)
    """Fraction of each class that is kept from training."""
    split_seed: int = Field(default=0, ge=0)
    """Seed of the choice of held-out images."""

    @field_validator("name")
    @classmethod
    def _name_has_a_letter(cls, name: str | None) -> str | None:
        if name is not None and not _key(name):
            raise ValueError(f"name must hold a letter or digit, got {name!r}")
        return name

    def load(self) -> Dataset:
        """Centre-cropped, resized images [C, size, size].

        Raises UserError if the folder is missing, holds too few images, or any is unreadable.
        """
        return _load(self)


def _key(name: str) -> str:
    """`name` as a part of a metric's name: lower case, letters, digits and single `_`."""
    return re.sub(r"[\W_]+", "_", name).strip("_").lower()


@lru_cache(maxsize=4)
def _load(config: ImageFolderConfig) -> Dataset:
    files = _find(config.path)
    pixels = _read_all(files, config)
    images = torch.from_numpy(pixels).float().div_(127.5).sub_(1)
    dataset = split(
        images,
        _labels(files, config.path),
        name=_key(config.name or config.path.name) or "images",
        fraction=config.held_out,
        seed=config.split_seed,
    )
    if not len(dataset.train) or not len(dataset.held_out):
        raise UserError(
            f"dataset.path must hold enough images to hold out {config.held_out:g} of them,"
            f" got {len(files)}: {config.path}"
        )
    return dataset


def _find(path: Path) -> list[Path]:
    if not path.is_dir():
        raise UserError(f"dataset.path must be an existing folder, got {str(path)!r}")
    files = sorted(
        file
        for file in path.rglob("*")
        if file.suffix.lower() in SUFFIXES and not file.name.startswith(".") and file.is_file()
    )
    if not files:
        raise UserError(f"dataset.path holds no images ({', '.join(SUFFIXES)}): {path}")
    root = path.resolve()
    for file in files:
        if file.is_symlink() and not file.resolve().is_relative_to(root):
            link = file.relative_to(path).as_posix()
            raise UserError(f"dataset.path must hold no links that lead out of it, got {link}")
    return files


def _labels(files: Sequence[Path], root: Path) -> Tensor | None:
    folders = [file.relative_to(root).parts[:-1] for file in files]
    if not all(folders):
        return None
    names = [folder[0] for folder in folders]
    classes = {name: label for label, name in enumerate(sorted(set(names)))}
    return torch.tensor([classes[name] for name in names])


def _read_all(files: Sequence[Path], config: ImageFolderConfig) -> npt.NDArray[np.uint8]:
    """All images as uint8 [N, C, size, size]; names every unreadable file, not just the first."""
    pixels = np.empty((len(files), config.channels, config.size, config.size), dtype=np.uint8)
    broken = []
    for row, file in zip(pixels, files, strict=True):
        try:
            row[:] = _read(file, config.size, config.channels)
        except _BROKEN:
            broken.append(file.relative_to(config.path).as_posix())
    if broken:
        raise UserError(_unreadable(broken))
    return pixels


def _unreadable(broken: Sequence[str], shown: int = 10) -> str:
    noun = "image" if len(broken) == 1 else "images"
    more = f" and {len(broken) - shown} more" if len(broken) > shown else ""
    return f"dataset.path holds {len(broken)} unreadable {noun}: {', '.join(broken[:shown])}{more}"


def _read(file: Path, size: int, channels: int) -> npt.NDArray[np.uint8]:
    """One image as uint8 [C, size, size]: largest centred square, Lanczos (antialiased) resize."""
    with _opened(file) as opened:
        if opened.width * opened.height > _MOST_PIXELS:
            raise ValueError("a few bytes may unpack to gigabytes")
        upright = ImageOps.exif_transpose(opened)
        colour = _opaque(upright).convert("L" if channels == 1 else "RGB")
    square = ImageOps.fit(colour, (size, size), method=Image.Resampling.LANCZOS)
    return np.asarray(square, dtype=np.uint8).reshape(size, size, channels).transpose(2, 0, 1)


def _opened(file: Path) -> Image.Image:
    with warnings.catch_warnings():  # at sizes that are in order here
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        return Image.open(file, formats=FORMATS)


def _opaque(image: Image.Image) -> Image.Image:
    """Without its two traps: 16-bit grey (clipped by `convert`) and transparency (over white)."""
    if image.mode.startswith("I"):
        return Image.fromarray((np.asarray(image) // 256).astype(np.uint8))
    if not image.has_transparency_data:
        return image
    visible = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", visible.size, "white"), visible)
