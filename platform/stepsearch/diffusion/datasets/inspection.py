"""What a data set of pictures holds, found by reading all of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from stepsearch.diffusion.datasets.formats import (
    BROKEN,
    Pictures,
    format_of,
    open_pictures,
    quiet,
)
from stepsearch.diffusion.datasets.preparing import prepared
from stepsearch.pictures import sample_grid

_GREY = {"1", "L", "I", "I;16"}
_SIDES = (64, 4)
"""The largest side that is proposed, and what every side is a multiple of."""
_SMALL = 8


@dataclass
class Inspection:
    """What was found."""

    format: str
    pictures: Pictures
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    """(width, height): how many."""
    modes: Counter[str] = field(default_factory=Counter)
    """Pillow's name of how a pixel is stored: how many."""
    broken: list[str] = field(default_factory=list)
    """Those that cannot be read."""

    @property
    def classes(self) -> dict[str, int]:
        """How many pictures each class has."""
        counts = np.bincount(self.pictures.labels or [], minlength=len(self.pictures.classes))
        return dict(zip(self.pictures.classes, counts.tolist(), strict=False))

    @property
    def held_out(self) -> int:
        """How many the authors have set apart."""
        return sum(self.pictures.held_out or ())

    @property
    def size(self) -> int:
        """A side to train at: the shortest one, in whole steps, up to 64."""
        most, step = _SIDES
        shortest = min((min(size) for size in self.sizes), default=most)
        return max(step, min(most, shortest // step * step))

    @property
    def channels(self) -> int:
        """1 if all pictures are grey, otherwise 3."""
        return 1 if self.modes.keys() <= _GREY else 3


def inspect_pictures(
    path: Path, progress: Callable[[Pictures], Iterable[int]] = lambda p: range(len(p))
) -> Inspection:
    """Read every picture at `path`; `progress` may show how far it is.

    Raises UserError if there are none.
    """
    found = Inspection(format_of(path).name, open_pictures(path))
    for index in progress(found.pictures):
        try:
            with quiet(), found.pictures.read(index) as picture:
                prepared(picture, _SMALL, channels=3)
                found.sizes[picture.size] += 1
                found.modes[picture.mode] += 1
        except BROKEN:
            found.broken.append(found.pictures.names[index])
    return found


def sheet(found: Inspection, size: int, channels: int, n: int = 64) -> Image.Image:
    """Up to n pictures, evenly through the data set, as a denoiser would see them."""
    broken = set(found.broken)
    whole = [index for index, name in enumerate(found.pictures.names) if name not in broken]
    chosen = whole[:: max(1, len(whole) // n)][:n]
    tiles = np.stack([_prepared(found.pictures, index, size, channels) for index in chosen])
    return sample_grid(tiles / 127.5 - 1, n)


def _prepared(
    pictures: Pictures, index: int, size: int, channels: int
) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    with quiet(), pictures.read(index) as picture:
        return prepared(picture, size, channels)
