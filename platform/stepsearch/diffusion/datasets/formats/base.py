"""What every format of pictures is: a list of them, each read when it is asked for."""

from __future__ import annotations

import re
import struct
import warnings
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from stepsearch.errors import UserError

BROKEN = (
    *(OSError, SyntaxError, ValueError, struct.error, zlib.error),
    Image.DecompressionBombError,
)
"""What `read` raises of a picture that cannot be read; seen by damaging files of all types."""

PARTS = {
    **dict.fromkeys(("train", "training"), False),
    **dict.fromkeys(("test", "t10k", "val", "valid", "validation"), True),
}
"""What those who publish data sets call their parts, and whether they are held out."""


@dataclass(frozen=True)
class Pictures(ABC):
    """Pictures in an order that does not change; a subclass adds `read`."""

    names: Sequence[str]
    """Where each is: a file below the path, or a file and a row."""
    labels: Sequence[int] | None
    """Of each picture, in 0..len(classes)-1."""
    classes: Sequence[str]
    """What the labels are called."""
    held_out: Sequence[bool] | None
    """Which of them the data set's authors have set apart; none where they have not."""

    def __len__(self) -> int:
        return len(self.names)

    @abstractmethod
    def read(self, index: int) -> Image.Image:
        """One picture as it is stored. Raises one of BROKEN if that cannot be done."""


def visible(root: Path, pattern: str = "*") -> list[Path]:
    """The files below a folder, but for hidden ones and those in hidden folders.

    Raises UserError for a folder that is a link: what lies there would be passed over.
    """
    found = []
    for path in sorted(root.rglob(pattern)):
        if any(part.startswith(".") for part in path.relative_to(root).parts):
            continue
        if path.is_symlink() and path.is_dir():
            name = path.relative_to(root).as_posix()
            raise UserError(f"dataset.path must hold no folders that are links, got {name}")
        if path.is_file():
            found.append(path)
    return found


@contextmanager
def quiet() -> Iterator[None]:
    """Pillow says nothing of damaged tags, nor of sizes that are in order here.

    It holds for all threads of the process, and so goes around them.
    """
    with warnings.catch_warnings():
        for kind in (UserWarning, Image.DecompressionBombWarning):
            warnings.simplefilter("ignore", kind)
        yield


def numbered(classes: Sequence[str]) -> tuple[list[int], list[str]]:
    """Labels for names of classes, in alphabetical order, and the names."""
    names = sorted(set(classes))
    numbers = {name: label for label, name in enumerate(names)}
    return [numbers[name] for name in classes], names


def part(name: str) -> bool | None:
    """Whether a word of the name says that what it names is held out; None if none says so."""
    word = part_word(name)
    return None if word is None else PARTS[word]


def part_word(name: str) -> str | None:
    """The word of a name that says of which part it is."""
    words = re.split(r"[\W_]+", name.lower())
    return next((word for word in words if word in PARTS), None)


def both_parts(parts: Sequence[bool | None]) -> list[bool] | None:
    """The parts, where every picture belongs to one and both are there."""
    known = [part for part in parts if part is not None]
    return known if len(known) == len(parts) and len(set(known)) == 2 else None


def as_image(pixels: npt.NDArray[Any]) -> Image.Image:
    """uint8 [H, W], [H, W, 1] or [H, W, 3] as a picture."""
    grey = pixels.shape[2:] == (1,)
    return Image.fromarray(np.ascontiguousarray(pixels.squeeze(2) if grey else pixels))
