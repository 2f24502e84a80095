"""Image files: in a folder or in a zip, flat or with one subfolder a class."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from PIL import Image

from stepsearch.diffusion.datasets.formats.base import (
    PARTS,
    Pictures,
    both_parts,
    numbered,
    visible,
)
from stepsearch.errors import UserError

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")

TYPES = ("BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")
"""What is looked for in a file, whatever its suffix: Pillow gives others to programs like
Ghostscript."""

_MOST_PIXELS = 100_000_000
_MOST_BYTES = 256 * 2**20
"""Of one file of an archive."""


@dataclass(frozen=True)
class Folder(Pictures):
    """All image files below a folder."""

    root: Path

    @classmethod
    def open(cls, root: Path) -> Folder:
        """Hidden files, and those with other suffixes, are passed over."""
        names = [f.relative_to(root).as_posix() for f in visible(root) if _is_image(f.name)]
        names, inside = sorted(names), root.resolve()
        for name in names:
            file = root / name
            if file.is_symlink() and not file.resolve().is_relative_to(inside):
                raise UserError(f"dataset.path must hold no links that lead out of it, got {name}")
        return cls(names, *_sorted_into(names), root)

    def read(self, index: int) -> Image.Image:
        return opened(self.root / self.names[index])


@dataclass(frozen=True)
class Zip(Pictures):
    """All image files in a zip archive, which is never unpacked."""

    file: Path

    @classmethod
    def open(cls, file: Path) -> Zip:
        with zipfile.ZipFile(file) as archive:
            files = [i.filename for i in archive.infolist() if not i.is_dir()]
        names = sorted(name for name in files if _is_image(name) and not _is_hidden(name))
        return cls(names, *_sorted_into(names), file)

    def read(self, index: int) -> Image.Image:
        entry = self._archive.getinfo(self.names[index])
        if entry.file_size > _MOST_BYTES:
            raise ValueError("a few bytes may unpack to gigabytes")
        try:
            return opened(BytesIO(self._archive.read(entry)))
        except (zipfile.BadZipFile, RuntimeError, EOFError) as error:
            raise OSError(str(error)) from None  # damaged, packed unusually, or with a password

    @cached_property
    def _archive(self) -> zipfile.ZipFile:
        return zipfile.ZipFile(self.file)


def opened(file: Path | BinaryIO) -> Image.Image:
    """An image file. Raises one of BROKEN if it is not one, or a very large one."""
    image = Image.open(file, formats=TYPES)
    if image.width * image.height > _MOST_PIXELS:
        image.close()
        raise ValueError("a few bytes may unpack to gigabytes")
    return image


def _is_image(name: str) -> bool:
    return PurePosixPath(name).suffix.lower() in SUFFIXES


def _is_hidden(name: str) -> bool:
    """Also what macOS adds to archives."""
    return any(part.startswith((".", "__MACOSX")) for part in PurePosixPath(name).parts)


def _sorted_into(
    names: Sequence[str],
) -> tuple[list[int] | None, list[str], list[bool] | None]:
    """Labels, classes and parts. Each picture's first folder is its part, where both parts are
    there; the next folder, where each picture has one, is its class. An outer folder that holds
    all of them is passed over."""
    folders = [PurePosixPath(name).parts[:-1] for name in names]
    while all(len(f) > 1 for f in folders) and len({f[0] for f in folders}) == 1:
        folders = [folder[1:] for folder in folders]
    held_out = both_parts([PARTS.get(f[0].lower()) if f else None for f in folders])
    if held_out is not None:
        folders = [f[1:] for f in folders]
    if not all(folders):
        return None, [], held_out
    return *numbered([f[0] for f in folders]), held_out
