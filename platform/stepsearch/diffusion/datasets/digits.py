"""scikit-learn's 1797 handwritten digits, 8x8 grey: the dataset that needs no download."""

from __future__ import annotations

from functools import lru_cache
from importlib.metadata import distribution
from typing import Literal

import numpy as np
import torch
from pydantic import Field

from stepsearch.diffusion.datasets.base import Dataset, DatasetConfig, split

_FILE = "sklearn/datasets/data/digits.csv.gz"


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
    # What sklearn.datasets.load_digits reads; importing it takes a second in each process.
    table = np.loadtxt(str(distribution("scikit-learn").locate_file(_FILE)), delimiter=",")
    images = torch.from_numpy(table[:, :-1]).float().div(8).sub(1).view(-1, 1, 8, 8)
    labels = torch.from_numpy(table[:, -1]).long()
    return split(images, labels, name="digits", fraction=0.2, seed=config.split_seed)
