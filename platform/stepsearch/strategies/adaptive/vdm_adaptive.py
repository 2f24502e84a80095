"""Importance sampling by the mean loss of each noise level (VDM++, Kingma & Gao 2023)."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from stepsearch.strategies.adaptive.bins import equal_bins, log_sigma
from stepsearch.strategies.adaptive.table import LearnedConfig, LearnedStrategy
from stepsearch.strategies.base import FloatArray, PredictionType


class VdmAdaptiveConfig(LearnedConfig):
    """p_t proportional to the moving average of w L in t's bin of log-SNR, w_t / (T p_t).

    The expected gradient stays that of uniform timesteps with the same weighting.
    """

    kind: Literal["vdm_adaptive"] = "vdm_adaptive"
    bins: int = Field(default=100, ge=2, le=1000)
    """Equally wide bins of log-SNR."""
    decay: float = Field(default=0.99, ge=0, lt=1)
    """Of a bin's moving average, a loss."""
    floor: float = Field(default=0.05, ge=0, le=1)
    """The part of all draws that stays uniform: no timestep's correction exceeds 1 / floor."""

    def build(
        self, alpha_bar: FloatArray, prediction_type: PredictionType = "epsilon"
    ) -> VdmAdaptive:
        _, w = self.tables(alpha_bar, prediction_type)
        return VdmAdaptive(self, w, equal_bins(-log_sigma(np.asarray(alpha_bar)), self.bins))


class VdmAdaptive(LearnedStrategy):
    """Keeps a moving average for every bin; a bin without losses has their mean."""

    config: VdmAdaptiveConfig

    def __init__(
        self, config: VdmAdaptiveConfig, w: FloatArray, bins: np.ndarray[tuple[int], np.dtype]
    ) -> None:
        self._bin = torch.from_numpy(bins)
        nothing = torch.zeros(config.bins, dtype=torch.float64)
        super().__init__(config, w, {"average": nothing, "seen": nothing}, floor=config.floor)

    def moved(self) -> None:
        self._bin = self._bin.to(self.base_weight.device)

    def learn(self, t: Tensor, loss: Tensor) -> None:
        """`seen` corrects the average for its start at 0, as Adam does."""
        loss = loss * self.base_weight[t]
        known = loss.isfinite()
        bins = self._bin[t]
        empty = torch.zeros_like(self.state["seen"])
        count = empty.index_add(0, bins, known.double())
        total = empty.index_add(0, bins, torch.where(known, loss, 0))
        kept = self.config.decay**count
        mean = total / count.clamp(min=1)
        self.state = {
            "average": kept * self.state["average"] + (1 - kept) * mean,
            "seen": kept * self.state["seen"] + (1 - kept),
        }

    def density(self) -> Tensor:
        average, seen = self.state["average"], self.state["seen"]
        known = seen > 0
        means = average / seen.clamp(min=torch.finfo(seen.dtype).tiny)
        overall = means.sum() / known.sum().clamp(min=1)
        p = torch.where(known, means, overall)[self._bin]
        return torch.where(p.sum() > 0, p, torch.ones_like(p))

    def weight(self, p: Tensor) -> Tensor:
        return self.base_weight / (self.T * p).clamp(min=torch.finfo(p.dtype).tiny)
