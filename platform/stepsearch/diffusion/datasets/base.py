"""What every dataset is: images held in memory, split once into train and held out."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from stepsearch.config import Config


@dataclass(frozen=True)
class Dataset:
    """Images in [-1, 1] as float32 [N, C, H, W], with int64 labels [N] where there are classes.

    `held_out` is never trained on. Datasets are shared inside a process: do not write to them.
    """

    name: str
    train: Tensor
    held_out: Tensor
    train_labels: Tensor | None
    held_out_labels: Tensor | None
    fingerprint: str
    """Hash of the content: the same images, labels and split give the same fingerprint."""

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


def split(
    images: Tensor,
    labels: Tensor | None,
    *,
    name: str,
    fraction: float,
    seed: int,
    held_out: npt.NDArray[np.bool_] | None = None,
) -> Dataset:
    """Hold out `fraction` of each class, chosen by `seed`, unless `held_out` [N] says which.

    A class too small to spare an image (fraction times its size rounds to 0) stays in train.
    """
    if held_out is None:
        held_out = _held_out(len(images), labels, fraction, seed)
    parts = (
        images[~held_out],
        images[held_out],
        None if labels is None else labels[~held_out],
        None if labels is None else labels[held_out],
    )
    return Dataset(name, *parts, fingerprint=_fingerprint(*parts))


def _held_out(
    count: int, labels: Tensor | None, fraction: float, seed: int
) -> npt.NDArray[np.bool_]:
    classes = np.zeros(count, dtype=np.int64) if labels is None else labels.numpy()
    random = np.random.default_rng(seed)
    chosen = np.zeros(count, dtype=np.bool_)
    for label in np.unique(classes):
        members = random.permutation(np.flatnonzero(classes == label))
        chosen[members[: round(fraction * len(members))]] = True
    return chosen


def _fingerprint(*parts: Tensor | None) -> str:
    digest = hashlib.sha256()
    for part in parts:
        array: Any = np.empty(0) if part is None else part.numpy()
        digest.update(repr((array.shape, str(array.dtype))).encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()[:16]
