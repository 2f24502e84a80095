"""DeCL: a curriculum from the noisiest timesteps down to all of them (arXiv 2403.10348)."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from stepsearch.strategies.adaptive.table import LearnedConfig, LearnedStrategy
from stepsearch.strategies.base import FloatArray, PredictionType


class DeclConfig(LearnedConfig):
    """Stage n draws uniformly from the n noisiest of `clusters` equal clusters of timesteps.

    It advances after `patience` steps without a new lowest loss, and ends with all timesteps.
    """

    kind: Literal["decl"] = "decl"
    clusters: int = Field(default=20, ge=1, le=1000)
    """At most T."""
    patience: int = Field(default=200, ge=1)
    """Steps."""
    floor: float = Field(default=0.0, ge=0, le=1)
    """The part of all draws that is uniform from the beginning."""

    def density(self, alpha_bar: FloatArray) -> FloatArray:
        """The first stage's."""
        T = len(alpha_bar)
        first = self.cluster_of(T) == 0
        return np.asarray((1 - self.floor) * first / first.sum() + self.floor / T)

    def cluster_of(self, T: int) -> FloatArray:
        """The cluster of each t, 0 the noisiest."""
        clusters = min(self.clusters, T)
        return np.asarray(clusters - 1 - np.arange(T) * clusters // T, dtype=np.float64)

    def build(self, alpha_bar: FloatArray, prediction_type: PredictionType = "epsilon") -> Decl:
        _, w = self.tables(alpha_bar, prediction_type)
        return Decl(self, w)


class Decl(LearnedStrategy):
    """Keeps the stage, its lowest loss and the steps since that."""

    config: DeclConfig

    def __init__(self, config: DeclConfig, w: FloatArray) -> None:
        self._cluster = torch.from_numpy(config.cluster_of(len(w)))
        state = {
            "stage": torch.ones((), dtype=torch.int64),
            "lowest": torch.tensor(torch.inf, dtype=torch.float64),
            "waited": torch.zeros((), dtype=torch.int64),
        }
        super().__init__(config, w, state, floor=config.floor)

    def moved(self) -> None:
        self._cluster = self._cluster.to(self.base_weight.device)

    def learn(self, t: Tensor, loss: Tensor) -> None:
        """Advance on the batch's mean weighted loss; one that is not finite is no improvement."""
        mean = (loss * self.base_weight[t]).mean()
        stage, lowest, waited = (self.state[name] for name in ("stage", "lowest", "waited"))
        waited = torch.where(mean < lowest, 0, waited + 1)
        lowest = torch.where(mean < lowest, mean, lowest)
        over = waited >= self.config.patience
        self.state = {
            "stage": torch.where(over, stage + 1, stage).clamp(max=self.config.clusters),
            "lowest": torch.where(over, torch.inf, lowest),
            "waited": torch.where(over, 0, waited),
        }

    def density(self) -> Tensor:
        return (self._cluster < self.state["stage"]).double()
