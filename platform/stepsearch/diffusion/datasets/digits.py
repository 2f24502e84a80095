"""scikit-learn's 1797 handwritten digits, 8x8 grey: the dataset that needs no download."""

from __future__ import annotations

from functools import lru_cache
from typing import Literal

import torch
from pydantic import Field
from sklearn.datasets import load_digits

from stepsearch.diffusion.datasets.base import Dataset, DatasetConfig, split


class DigitsConfig(DatasetConfig):
    """scikit-learn's digits: 10 classes, a fifth of each held out."""

    kind: Literal["digits"] = "digits"
    split_seed: int = Field(default=0, ge=0)
    """Seed of the choice of held-out images."""

    def load(self) -> Dataset:
        """1438 training and 359 held-out images [1, 8, 8]; the values 0..16 become x/8 - 1."""
        return _load(self)


@lru_cache(maxsize=4)
def _load(config: DigitsConfig) -> Dataset:
    digits = load_digits()
    images = torch.from_numpy(digits.images).float().div(8).sub(1).unsqueeze(1)
    labels = torch.from_numpy(digits.target).long()
    return split(images, labels, name="digits", fraction=0.2, seed=config.split_seed)
