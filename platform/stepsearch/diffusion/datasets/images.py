"""Pictures from anywhere: a folder of image files, a zip, npz, Parquet, idx, CIFAR's archives."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import PurePosixPath
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field, field_validator

from stepsearch.diffusion.datasets.base import Dataset, DatasetConfig, split
from stepsearch.diffusion.datasets.formats import BROKEN, Pictures, open_pictures
from stepsearch.diffusion.datasets.places import Place, fetched
from stepsearch.diffusion.datasets.preparing import prepared
from stepsearch.errors import UserError

_HELD_OUT = 0.2
_ENDING = re.compile(r"(\.(zip|npz|parquet|tar|gz|tgz|idx3-ubyte))+$")


class ImagesConfig(DatasetConfig):
    """All pictures at `path`, of whatever format; where each lies in a subfolder of a folder or
    a zip, the subfolder is its class."""

    kind: Literal["images"] = "images"
    path: Place
    """A folder or a file, wherever the worker runs, or an address (`s3://`, `hf://datasets/`,
    `https://` ...), from which each machine copies it once. Hidden files and files with other
    suffixes are passed over."""
    size: int = Field(ge=4, le=1024)
    """Height and width in pixels after cropping and resizing."""
    channels: Literal[1, 3] = 3
    """1: grey, 3: colour."""
    name: str | None = None
    """What metrics are named after; the last part of the path where none is given."""
    held_out: float | None = Field(default=None, gt=0, lt=1)
    """Fraction of each class that is kept from training; none: the data set's own test and
    validation parts, or 0.2 where it has none. With a fraction, these parts are left out."""
    split_seed: int = Field(default=0, ge=0)
    """Seed of the choice of held-out images."""
    skip_broken: bool = False
    """Pass over images that cannot be read, instead of refusing the data set."""

    @field_validator("name")
    @classmethod
    def _name_has_a_letter(cls, name: str | None) -> str | None:
        if name is not None and not _key(name):
            raise ValueError(f"name must hold a letter or digit, got {name!r}")
        return name

    def load(self) -> Dataset:
        """Centre-cropped, resized images [C, size, size].

        Raises UserError if nothing is there, too few images, or any that cannot be read.
        """
        return _load(self)


def _key(name: str) -> str:
    """`name` as a part of a metric's name: lower case, letters, digits and single `_`."""
    return re.sub(r"[\W_]+", "_", name).strip("_").lower()


@lru_cache(maxsize=4)
def _load(config: ImagesConfig) -> Dataset:
    pictures = open_pictures(fetched(config.path))
    pixels, rows = _read_all(pictures, config)
    labels = None if pictures.labels is None else torch.tensor(pictures.labels)[rows]
    own = None if pictures.held_out is None else np.array(pictures.held_out)[rows]
    images = torch.from_numpy(pixels).float().div_(127.5).sub_(1)
    if own is not None and config.held_out is not None:
        training = torch.from_numpy(~own)
        images, labels, own = images[training], None if labels is None else labels[training], None
    dataset = split(
        images,
        labels,
        name=_name(config),
        fraction=config.held_out or _HELD_OUT,
        seed=config.split_seed,
        held_out=own,
    )
    if not len(dataset.train) or not len(dataset.held_out):
        raise UserError(
            "dataset.path must hold enough images to hold out "
            f"{config.held_out or _HELD_OUT:g} of them, got {len(images)}: {config.path}"
        )
    return dataset


def _name(config: ImagesConfig) -> str:
    """Of the data set, after which metrics are named."""
    last = PurePosixPath(config.path).name
    return _key(config.name or _ENDING.sub("", last)) or "images"


def _read_all(
    pictures: Pictures, config: ImagesConfig
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """All pictures as uint8 [N, C, size, size], and which they are.

    Raises UserError with every one that cannot be read, unless they are to be passed over.
    """
    shape = (len(pictures), config.channels, config.size, config.size)
    pixels, broken = np.empty(shape, dtype=np.uint8), []
    for index, row in enumerate(pixels):
        try:
            with pictures.read(index) as picture:
                row[:] = prepared(picture, config.size, config.channels)
        except BROKEN:
            broken.append(index)
    if broken and not config.skip_broken:
        raise UserError(unreadable([pictures.names[index] for index in broken]))
    whole = np.setdiff1d(np.arange(len(pictures)), broken)
    return pixels[whole] if broken else pixels, whole


def unreadable(broken: Sequence[str], shown: int = 10) -> str:
    """What to say of pictures that cannot be read."""
    noun = "image" if len(broken) == 1 else "images"
    more = f" and {len(broken) - shown} more" if len(broken) > shown else ""
    return f"dataset.path holds {len(broken)} unreadable {noun}: {', '.join(broken[:shown])}{more}"
