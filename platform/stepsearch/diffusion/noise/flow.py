"""Rectified flow: straight lines from noise to images (Liu et al. 2023), shifted as in SD3."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from pydantic import Field
from torch import Tensor

from stepsearch.diffusion.noise.base import Levels, NoiseProcess, ProcessConfig
from stepsearch.strategies.base import PredictionType


class FlowConfig(ProcessConfig):
    """x_t = (1 - s_t) x0 + s_t eps; the denoiser predicts the velocity eps - x0.

    s_t = shift u / (1 + (shift - 1) u) with u = (t + 1) / T (Esser et al. 2024, eq. 23): no signal
    is left at t = T - 1.
    """

    kind: Literal["flow"] = "flow"
    shift: float = Field(default=1.0, ge=0.01, le=100)
    """Above 1 for more noise at every t but the last; SD3 uses 3 for images of 1024 x 1024."""

    @property
    def targets(self) -> tuple[PredictionType, ...]:
        return ("flow",)

    def build(self) -> FlowProcess:
        return FlowProcess(self)


class FlowProcess(NoiseProcess):
    """a_t = 1 - s_t, b_t = s_t; the denoiser is told s_t T."""

    kind = "flow"
    config: FlowConfig

    def __init__(self, config: FlowConfig) -> None:
        u = np.arange(1, config.timesteps + 1) / config.timesteps
        s = config.shift * u / (1 + (config.shift - 1) * u)
        s[-1] = 1  # exactly, also after rounding
        super().__init__(config, "flow", (1 - s) ** 2 / ((1 - s) ** 2 + s**2))
        self._levels = Levels(1 - s, s, s * self.T)

    def time(self, t: Tensor) -> Tensor:
        _, _, time = self._levels.at(t)
        return time

    def coefficients(self, t: Tensor) -> tuple[Tensor, Tensor]:
        a, b, _ = self._levels.at(t)
        return a, b

    def target(
        self, x0: Tensor, noise: Tensor, t: Tensor, prediction_type: PredictionType
    ) -> Tensor:
        """v = eps - x0 = dx/ds."""
        return noise - x0

    def predict_x0(
        self, x_t: Tensor, output: Tensor, t: Tensor, prediction_type: PredictionType
    ) -> Tensor:
        """x_t - s v."""
        _, s = self._coefficients_for(x_t, t)
        return x_t - s * output

    def scheduler_config(self) -> dict[str, Any]:
        """For FlowMatchEulerDiscreteScheduler."""
        return {"num_train_timesteps": self.T, "shift": self.config.shift}
