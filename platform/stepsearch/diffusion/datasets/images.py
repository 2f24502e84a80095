"""Pictures from anywhere: a folder of image files, a zip, npz, Parquet, idx, CIFAR's archives."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np
import torch
from pydantic import Field, field_validator

from stepsearch.diffusion.datasets.base import Dataset, DatasetConfig, chosen, hash_of
from stepsearch.diffusion.datasets.formats import format_of, open_pictures
from stepsearch.diffusion.datasets.places import Place, fetched
from stepsearch.diffusion.datasets.store import Wanted, stored
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
    flip: bool = False
    """Train on each image's mirror image, left and right exchanged, as well."""
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
    path = fetched(config.path)
    format_of(path)
    key = f"{config.size} {config.channels} {config.held_out} {config.split_seed}"
    found = stored(path, key, lambda: _wanted(path, config))
    if found.broken and not config.skip_broken:
        raise UserError(_unreadable(found.broken))
    n, count = found.train, len(found.pixels)
    if not 0 < n < count:
        raise UserError(
            "dataset.path must hold enough images to hold out "
            f"{config.held_out or _HELD_OUT:g} of them, got {count}: {config.path}"
        )
    images = torch.from_numpy(found.pixels)
    labels = None if found.labels is None else torch.from_numpy(found.labels)
    return Dataset(
        _name(config),
        images[:n],
        images[n:],
        None if labels is None else labels[:n],
        None if labels is None else labels[n:],
        hash_of(found.digest, n, found.labels),
        config.flip,
    )


def _wanted(path: Path, config: ImagesConfig) -> Wanted:
    """All images, the ones that are held out apart."""
    pictures = open_pictures(path)
    own = np.array(pictures.held_out if pictures.held_out else [False] * len(pictures))
    train, held_out = np.flatnonzero(~own), np.flatnonzero(own)
    if config.held_out is not None or not len(held_out):
        labels = None if pictures.labels is None else torch.tensor(pictures.labels)[train]
        apart = chosen(len(train), labels, config.held_out or _HELD_OUT, config.split_seed)
        train, held_out = train[~apart], train[apart]
    return Wanted(pictures, train, held_out, config.size, config.channels)


def _name(config: ImagesConfig) -> str:
    """Of the data set, after which metrics are named."""
    last = PurePosixPath(config.path).name
    return _key(config.name or _ENDING.sub("", last)) or "images"


def _unreadable(broken: Sequence[str], shown: int = 10) -> str:
    """What to say of pictures that cannot be read."""
    noun = "image" if len(broken) == 1 else "images"
    more = f" and {len(broken) - shown} more" if len(broken) > shown else ""
    return f"dataset.path holds {len(broken)} unreadable {noun}: {', '.join(broken[:shown])}{more}"
