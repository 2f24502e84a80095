"""What every choice of features has: the names of its scores, and what it needs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, NamedTuple, Protocol, Self

import torch
from torch import Tensor

from stepsearch.config import Config
from stepsearch.evaluation.moments import Statistics

KEPT = 10_000
"""Images of a set whose features are kept, at most; the statistics are those of all."""


class ScoreNames(NamedTuple):
    """What the scores in these features are called; None where there is no such score."""

    fd: str
    kid: str
    spatial_fd: str | None = None
    inception_score: str | None = None


class Observed(NamedTuple):
    """Features of a set of images."""

    features: Tensor
    """[m, d], of all images or of some, which KID and the neighbours are taken from."""
    statistics: Statistics
    """Of all images."""
    spatial: Statistics | None = None
    logits: Tensor | None = None
    """[n, classes]"""


class Extractor(Protocol):
    """A network that looks at images."""

    def observe(self, images: Tensor, device: torch.device) -> Observed:
        """What it sees in images [n, C, H, W] in [-1, 1]; some networks do so on `device`."""


class FeaturesConfig(Config, ABC):
    """Base of every choice of features; a subclass adds `kind`."""

    needs_labels: ClassVar[bool] = False

    @abstractmethod
    def names(self, data: str) -> ScoreNames:
        """Of the scores on the data set `data`: of these features' own, never another's."""

    def objective(self, data: str, samples: int) -> str:
        """The score to minimise where a search names none, with so many images a score."""
        return self.names(data).fd

    def resolved(self) -> Self:
        """With the paths written out that an environment variable holds."""
        return self


def kept_rows(n: int) -> Tensor:
    """The numbers of the images whose features are kept: all, or KEPT at equal distances."""
    return torch.arange(min(n, KEPT)) * n // min(n, KEPT)
