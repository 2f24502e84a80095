"""Draw timesteps by the variance of their gradients: the Adaptive paper's negative control."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from stepsearch.strategies.adaptive.table import LearnedConfig, LearnedStrategy
from stepsearch.strategies.base import FloatArray, PredictionType, Step


class GradientVarianceConfig(LearnedConfig):
    """p_t proportional to Var[grad w_t L_t], without a correction (arXiv 2411.09998, Table 4).

    In the paper clearly worse than uniform timesteps: here to be compared with. The variance of
    one sample's gradient is estimated for a bin of timesteps from two halves of a batch.
    """

    kind: Literal["gradient_variance"] = "gradient_variance"
    bins: int = Field(default=20, ge=1, le=1000)
    """Equally many timesteps each; at most T bins."""
    every: int = Field(default=20, ge=1)
    """Steps between two estimates, one bin after another: each costs about one more step."""
    decay: float = Field(default=0.5, ge=0, lt=1)
    """Of a bin's moving average, an estimate."""
    floor: float = Field(default=0.05, ge=0, le=1)
    """The part of all draws that stays uniform."""

    def build(
        self, alpha_bar: FloatArray, prediction_type: PredictionType = "epsilon"
    ) -> GradientVariance:
        _, w = self.tables(alpha_bar, prediction_type)
        return GradientVariance(self, w)


class GradientVariance(LearnedStrategy):
    """Keeps a moving average for every bin; uniform until all of them have one."""

    config: GradientVarianceConfig

    def __init__(self, config: GradientVarianceConfig, w: FloatArray) -> None:
        self._bins = min(config.bins, len(w))
        self._bin = torch.from_numpy(np.arange(len(w)) * self._bins // len(w))
        state = {
            "variance": torch.zeros(self._bins, dtype=torch.float64),
            "estimates": torch.zeros(self._bins, dtype=torch.int64),
        }
        super().__init__(config, w, state, floor=config.floor)

    def moved(self) -> None:
        self._bin = self._bin.to(self.base_weight.device)

    def before_update(self, step: Step) -> None:
        if step.number % self.config.every == 0:
            turn = step.number // self.config.every % self._bins
            first, end = (-(-b * self.T // self._bins) for b in (turn, turn + 1))
            device = step.generator.device
            t = torch.randint(first, end, (1,), generator=step.generator, device=device)
            self.learn(t, self._variance(step, t))
            self._refresh()

    def _variance(self, step: Step, t: Tensor) -> Tensor:
        """h ||g1 - g2||^2 / 2 with the gradients of two halves of h images at t, [1].

        A batch of one image is noised twice.
        """
        h = max(1, len(step.x0) // 2)
        gradients = []
        rows = torch.arange(len(step.x0), device=step.x0.device)
        for half in (rows[:h], rows[-h:]):
            shape = h, *step.x0.shape[1:]
            noise = torch.randn(shape, generator=step.generator, device=rows.device)
            gradients.append(step.gradient(half, t.expand(h), noise))
        difference = (gradients[0] - gradients[1]).double()
        return h * difference.square().sum()[None] / 2 * self.base_weight[t] ** 2

    def after_update(self, step: Step) -> None:
        """Nothing: losses do not matter here."""

    def learn(self, t: Tensor, loss: Tensor) -> None:
        """`loss` is the variance at t."""
        at = self._bin[t]
        known, before = self.state["estimates"][at], self.state["variance"][at]
        kept = torch.where(known > 0, self.config.decay, 0.0)
        after = torch.where(loss.isfinite(), kept * before + (1 - kept) * loss, before)
        self.state = {
            "variance": self.state["variance"].index_copy(0, at, after),
            "estimates": self.state["estimates"].index_add(0, at, loss.isfinite().long()),
        }

    def density(self) -> Tensor:
        variance = self.state["variance"]
        usable = (self.state["estimates"] > 0).all() & (variance.sum() > 0)
        return torch.where(usable, variance, torch.ones_like(variance))[self._bin]
