"""EDM2's learned uncertainty: every noise level counts by what is left of its loss."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from stepsearch.strategies.adaptive.bins import log_sigma
from stepsearch.strategies.adaptive.table import LearnedConfig, LearnedStrategy
from stepsearch.strategies.base import FloatArray, PredictionType

_CHANNELS = 128


class UncertaintyConfig(LearnedConfig):
    """w_t = base weight / e^{u_t}, u learned with the loss w L / e^u + u (EDM2, CVPR 2024).

    At its optimum e^u is the mean weighted loss, so that every timestep contributes 1. u is a
    linear function of 128 random Fourier features of ln(sigma) / 4. Its loss does not depend
    on the denoiser, so it is trained beside it, with an Adam of its own; timesteps are uniform.
    """

    kind: Literal["edm2_uncertainty"] = "edm2_uncertainty"
    lr: float = Field(default=0.01, gt=0)
    """Learning rate of u."""
    strength: float = Field(default=1.0, ge=0, le=1)
    """w = base weight / e^{strength u}: 1 is the paper's, 0 leaves the base weight."""

    def build(
        self, alpha_bar: FloatArray, prediction_type: PredictionType = "epsilon"
    ) -> Uncertainty:
        _, w = self.tables(alpha_bar, prediction_type)
        return Uncertainty(self, w, features(log_sigma(np.asarray(alpha_bar)) / 4))


def features(noise: FloatArray) -> Tensor:
    """sqrt(2) cos(2 pi (f noise + phase)) with normal f and uniform phases, and a constant."""
    source = torch.Generator().manual_seed(0)
    frequency = torch.randn(_CHANNELS, generator=source, dtype=torch.float64)
    phase = torch.rand(_CHANNELS, generator=source, dtype=torch.float64)
    angles = torch.from_numpy(noise)[:, None] * frequency + phase
    waves = math.sqrt(2 / _CHANNELS) * torch.cos(2 * math.pi * angles)
    return torch.cat([waves, torch.ones(len(noise), 1, dtype=torch.float64)], dim=1)


class Uncertainty(LearnedStrategy):
    """Keeps the coefficients of u and Adam's two averages of their gradient."""

    config: UncertaintyConfig

    def __init__(self, config: UncertaintyConfig, w: FloatArray, features: Tensor) -> None:
        zeros = torch.zeros(features.shape[1], dtype=torch.float64)
        steps = torch.zeros((), dtype=torch.float64)
        state = {"kernel": zeros, "mean": zeros, "square": zeros, "steps": steps}
        self._features = features
        super().__init__(config, w, {**state, "features": features})

    def moved(self) -> None:
        """The features are in the state, so that a checkpoint does not depend on their draw."""
        self._features = self.state["features"]

    @property
    def u(self) -> Tensor:
        """ln of the expected weighted loss, float64 [T]."""
        return self._features @ self.state["kernel"]

    def learn(self, t: Tensor, loss: Tensor) -> None:
        """One step of Adam on mean(w L / e^u + u)."""
        ratio = loss * self.base_weight[t] / self.u[t].exp()
        slope = torch.where(ratio.isfinite(), 1 - ratio, 0)
        gradient = (slope[:, None] * self._features[t]).mean(0)
        steps = self.state["steps"] + 1
        mean = 0.9 * self.state["mean"] + 0.1 * gradient
        square = 0.999 * self.state["square"] + 0.001 * gradient**2
        scale = (square / (1 - 0.999**steps)).sqrt() + 1e-8
        kernel = self.state["kernel"] - self.config.lr * mean / (1 - 0.9**steps) / scale
        self.state = self.state | {
            "kernel": kernel,
            "mean": mean,
            "square": square,
            "steps": steps,
        }

    def density(self) -> Tensor:
        return torch.ones_like(self.base_weight)

    def weight(self, p: Tensor) -> Tensor:
        return self.base_weight * (-self.config.strength * self.u).exp()
