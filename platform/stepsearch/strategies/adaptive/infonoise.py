"""InfoNoise: draw noise levels by the information that they hold (arXiv 2602.18647)."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from stepsearch.strategies.adaptive.bins import equal_bins, log_sigma
from stepsearch.strategies.adaptive.history import empty_history, means, push
from stepsearch.strategies.adaptive.table import LearnedConfig, LearnedStrategy
from stepsearch.strategies.base import FloatArray, PredictionType, Step, x0_errors

_ENOUGH = 50
"""Losses that a bin needs before its mean counts."""


class InfoNoiseConfig(LearnedConfig):
    """p per unit of ln sigma proportional to mmse(sigma) / sigma^2 gate(sigma) / w(sigma).

    mmse / sigma^2 is the rate at which information is lost with ln sigma (I-MMSE); the gate
    sigma^n / (sigma^n + c^n) keeps the lowest noise from taking it all. w is the loss's weight
    on the x0 scale, so that p w is the information's density, and p the floor where w is 0;
    the published codes disagree on this step, `over_weight` leaves it out.
    """

    kind: Literal["infonoise"] = "infonoise"
    bins: int = Field(default=64, ge=2, le=1000)
    """Equally wide bins of ln sigma."""
    history: int = Field(default=256, ge=1, le=100_000)
    """Errors kept of every bin."""
    gate: float = Field(default=0.15, ge=0)
    """c; 0 opens the gate everywhere."""
    gate_power: float = Field(default=3.0, gt=0, le=20)
    """n."""
    floor: float = Field(default=0.05, ge=0, le=1)
    """The part of all draws that stays uniform."""
    over_weight: bool = True
    """Divide by the loss's weight on the x0 scale."""
    warmup: float = Field(default=0.2, ge=0, le=1)
    """The part of the budget, 5000 steps at most, with uniform timesteps."""
    every: int = Field(default=100, ge=1)
    """Steps between two looks at the errors."""
    newness: float = Field(default=0.9, gt=0, le=1)
    """How much of a new density is taken, and not of the one before."""

    def build(
        self, alpha_bar: FloatArray, prediction_type: PredictionType = "epsilon"
    ) -> InfoNoise:
        _, w = self.tables(alpha_bar, prediction_type)
        return InfoNoise(self, w, np.asarray(alpha_bar), prediction_type)


def gate(sigma: FloatArray, c: float, n: float) -> FloatArray:
    """sigma^n / (sigma^n + c^n)."""
    return 1 / (1 + (c / sigma) ** n)


class InfoNoise(LearnedStrategy):
    """Keeps the last x0-errors of every bin."""

    config: InfoNoiseConfig

    def __init__(
        self,
        config: InfoNoiseConfig,
        w: FloatArray,
        alpha_bar: FloatArray,
        prediction_type: PredictionType,
    ) -> None:
        levels = log_sigma(alpha_bar)
        factor = x0_errors(np.clip(alpha_bar, 1e-8, 1 - 1e-8), prediction_type)
        sigma = np.exp(levels)
        scale = gate(sigma, config.gate, config.gate_power) * np.gradient(levels)
        if config.over_weight:
            x0_weight = w * factor
            zeros = np.zeros_like(scale)
            scale = np.divide(scale, x0_weight, out=zeros, where=x0_weight > 0)
        # bins hold mmse / sigma^2 and not mmse, which changes by orders of magnitude inside one
        self._constants = {
            "bin": torch.from_numpy(equal_bins(levels, config.bins)),
            "rate": torch.from_numpy(1 / (factor * sigma**2)),
            "scale": torch.from_numpy(scale / scale.max()),
        }
        uniform = torch.full((len(w),), 1 / len(w), dtype=torch.float64)
        state = {**empty_history(config.bins, config.history), "p": uniform}
        super().__init__(config, w, state, floor=config.floor)

    def moved(self) -> None:
        device = self.base_weight.device
        self._constants = {name: value.to(device) for name, value in self._constants.items()}

    def learn(self, t: Tensor, loss: Tensor) -> None:
        errors = loss * self._constants["rate"][t]
        self.state = self.state | push(self.state, self._constants["bin"][t], errors)

    def after_update(self, step: Step) -> None:
        super().after_update(step)
        warm = step.progress >= self.config.warmup or step.number >= 5000
        if warm and step.number % self.config.every == 0:
            self.refresh()

    def refresh(self) -> None:
        """Follow the errors, unless those of a bin are still too few."""
        bins, p = self._constants["bin"], self.state["p"]
        known = (self.state["count"][bins] >= min(_ENOUGH, self.config.history)).all()
        new = means(self.state)[bins] * self._constants["scale"]
        usable = known & (new.sum() > 0)
        new = self.config.newness * new / new.sum().clamp(min=torch.finfo(new.dtype).tiny)
        mixed = new + (1 - self.config.newness) * p
        self.state["p"] = torch.where(usable, mixed, p)
        self._refresh()

    def density(self) -> Tensor:
        return self.state["p"]
