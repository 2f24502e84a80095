"""EDM: noise is added to the image, and the denoiser is preconditioned (Karras et al. 2022)."""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from stepsearch.diffusion.noise.base import NoiseProcess, ProcessConfig
from stepsearch.strategies.base import SIGMA_DATA, PredictionType


class EDMConfig(ProcessConfig):
    """A variance-exploding process x = x0 + sigma eps with EDM's preconditioning.

    The range of ln sigma is divided into T equal bins, from one of which a strategy draws; the
    level is uniform in ln sigma inside it. Uniform timesteps are thus log-uniform in sigma.
    """

    kind: Literal["edm"] = "edm"
    sigma_min: float = Field(default=0.002, ge=1e-4, le=1)
    sigma_max: float = Field(default=80.0, ge=1, le=1e5)
    """The images lie in [-1, 1]."""

    @model_validator(mode="after")
    def _some_range(self) -> EDMConfig:
        if self.sigma_min == self.sigma_max:
            raise ValueError(f"sigma_max must be greater than sigma_min, got {self.sigma_max}")
        return self

    @property
    def targets(self) -> tuple[PredictionType, ...]:
        return ("edm",)

    def build(self) -> EDMProcess:
        return EDMProcess(self)


class EDMProcess(NoiseProcess):
    """The denoiser F sees c_in (x0 + sigma eps) and the time c_noise, and its output stands for
    the image c_skip (x0 + sigma eps) + c_out F (Karras et al. 2022, eq. 7 and table 1).
    """

    kind = "edm"
    config: EDMConfig

    def __init__(self, config: EDMConfig) -> None:
        low, high = math.log(config.sigma_min), math.log(config.sigma_max)
        self._width = (high - low) / config.timesteps
        self._first = low + self._width / 2
        ln_sigma = self._first + self._width * np.arange(config.timesteps)
        super().__init__(config, "edm", 1 / (1 + np.exp(2 * ln_sigma)))

    def jitter(self, t: Tensor, generator: torch.Generator) -> Tensor:
        """Anywhere in t's bin, from t - 1/2 to t + 1/2."""
        return t + torch.rand(t.shape, generator=generator, device=t.device) - 0.5

    def time(self, t: Tensor) -> Tensor:
        """c_noise = ln(sigma) / 4."""
        return self._ln_sigma(t) / 4

    def coefficients(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """c_in and c_in sigma, with c_in = (sigma^2 + sigma_data^2)^(-1/2)."""
        sigma = self._ln_sigma(t).exp()
        c_in = (sigma**2 + SIGMA_DATA**2).rsqrt()
        return c_in, c_in * sigma

    def target(
        self, x0: Tensor, noise: Tensor, t: Tensor, prediction_type: PredictionType
    ) -> Tensor:
        """F = (x0 - c_skip (x0 + sigma eps)) / c_out, written so that nothing cancels."""
        c_in, b = self._coefficients_for(x0, t)
        return b / SIGMA_DATA * x0 - SIGMA_DATA * c_in * noise

    def predict_x0(
        self, x_t: Tensor, output: Tensor, t: Tensor, prediction_type: PredictionType
    ) -> Tensor:
        """D = c_skip x_t / c_in + c_out F; c_skip = (sigma_data c_in)^2, c_out = sigma_data b."""
        c_in, b = self._coefficients_for(x_t, t)
        return SIGMA_DATA**2 * c_in * x_t + SIGMA_DATA * b * output

    def scheduler_config(self) -> dict[str, Any]:
        """For EDMEulerScheduler and EDMDPMSolverMultistepScheduler."""
        return {
            "num_train_timesteps": self.T,
            "sigma_min": self.config.sigma_min,
            "sigma_max": self.config.sigma_max,
            "sigma_data": SIGMA_DATA,
            "prediction_type": "epsilon",  # what these two call F
        }

    def _ln_sigma(self, t: Tensor) -> Tensor:
        return self._first + self._width * t.float()
