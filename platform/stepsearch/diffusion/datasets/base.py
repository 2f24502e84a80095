"""What every dataset is: images or latents, split once into train and held out."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from stepsearch.config import Config


@dataclass(frozen=True)
class Dataset:
    """Images [N, C, H, W], with int64 labels [N] where there are classes.

    They are uint8, float32, or float16 latents (`stepsearch.pixels`), and may lie on the disk
    until they are looked at. `held_out` is never trained on. Datasets are shared inside a process:
    do not write to them.
    """

    name: str
    train: Tensor
    held_out: Tensor
    train_labels: Tensor | None
    held_out_labels: Tensor | None
    fingerprint: str
    """Hash of the content: the same images, labels and split give the same fingerprint."""
    flip: bool = False
    """Whether each image is trained on as its mirror image, too."""
    vae: Path | None = None
    """The folder of the autoencoder that decodes them, where they are latents."""

    @property
    def classes(self) -> int:
        """How many there are, from 0 on; 0 without labels."""
        return 0 if self.train_labels is None else int(self.train_labels.max()) + 1

    @property
    def class_shares(self) -> Tensor | None:
        """The share of each class in the training images, float64 [classes]; sums to 1."""
        if self.train_labels is None:
            return None
        return self.train_labels.bincount().double() / len(self.train_labels)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one image."""
        channels, height, width = self.train.shape[1:]
        return channels, height, width


class DatasetConfig(Config, ABC):
    """Base of every dataset's config; a subclass adds `kind` and `load`."""

    @abstractmethod
    def load(self) -> Dataset:
        """The images; the second call in a process returns the same object."""

    def pictures_of(self) -> Dataset:
        """What is looked at, and what generated pictures are compared with."""
        return self.load()


def split(
    images: Tensor, labels: Tensor | None, *, name: str, fraction: float, seed: int
) -> Dataset:
    """Hold out `fraction` of each class, chosen by `seed`; see `chosen`."""
    held_out = chosen(len(images), labels, fraction, seed)
    parts = (
        images[~held_out],
        images[held_out],
        None if labels is None else labels[~held_out],
        None if labels is None else labels[held_out],
    )
    arrays = (np.empty(0) if part is None else part.numpy() for part in parts)
    return Dataset(name, *parts, fingerprint=hash_of(*arrays))


def chosen(count: int, labels: Tensor | None, fraction: float, seed: int) -> npt.NDArray[np.bool_]:
    """Which of `count` images are held out, [count]: `fraction` of each class.

    A class too small to spare an image (fraction times its size rounds to 0) spares none.
    """
    classes = np.zeros(count, dtype=np.int64) if labels is None else labels.numpy()
    random = np.random.default_rng(seed)
    held_out = np.zeros(count, dtype=np.bool_)
    for label in np.unique(classes):
        members = random.permutation(np.flatnonzero(classes == label))
        held_out[members[: round(fraction * len(members))]] = True
    return held_out


def hash_of(*parts: Any) -> str:
    """Of arrays and of what has a repr; one that differs in nothing else is the same."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            digest.update(repr((part.shape, str(part.dtype))).encode())
            digest.update(np.ascontiguousarray(part).data)
        else:
            digest.update(repr(part).encode())
    return digest.hexdigest()[:16]
