"""Noise processes: how much signal is left in x_t at each of T timesteps."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from stepsearch.config import Config
from stepsearch.strategies.base import FloatArray, PredictionType, read_only, snr

Schedule = Literal["linear", "quad", "cosine", "scaled_linear", "const"]

# schedule: (diffusers' beta_schedule, first and last beta of a process with 1000 timesteps)
_BETAS: dict[str, tuple[str, float, float]] = {
    "linear": ("linear", 1e-4, 0.02),  # DDPM
    "quad": ("scaled_linear", 1e-4, 0.02),  # DDIM
    "scaled_linear": ("scaled_linear", 8.5e-4, 0.012),  # Stable Diffusion
    "const": ("linear", 0.02, 0.02),
}
_MAX_COSINE_BETA = 0.999


class NoiseConfig(Config):
    """A variance-preserving process x_t = sqrt(abar_t) x0 + sqrt(1 - abar_t) eps."""

    schedule: Schedule = "linear"
    """quad: sqrt(beta) is linear; scaled_linear: quad with Stable Diffusion's betas."""
    timesteps: int = Field(default=1000, ge=50, le=10_000)
    """T. The betas are scaled by 1000 / T, so that every T ends at about the same noise."""

    def build(self) -> NoiseProcess:
        return NoiseProcess(self)

    def beta_range(self) -> tuple[float, float]:
        """The first and the last beta; not for the cosine schedule."""
        _, first, last = _BETAS[self.schedule]
        scale = 1000 / self.timesteps
        return scale * first, scale * last

    def betas(self) -> FloatArray:
        """The variance beta_t that step t adds; float64 [T]."""
        if self.schedule == "cosine":
            return _cosine_betas(self.timesteps)
        power = 2 if _BETAS[self.schedule][0] == "scaled_linear" else 1
        first, last = (beta ** (1 / power) for beta in self.beta_range())
        betas: FloatArray = np.linspace(first, last, self.timesteps) ** power
        return betas


def _cosine_betas(T: int) -> FloatArray:
    """beta_i = min(1 - f((i + 1)/T) / f(i/T), 0.999) (Nichol & Dhariwal 2021, eq. 17)."""
    u = np.arange(T + 1) / T
    f = np.cos((u + 0.008) / 1.008 * np.pi / 2) ** 2
    betas: FloatArray = np.minimum(1 - f[1:] / f[:-1], _MAX_COSINE_BETA)
    return betas


class NoiseProcess:
    """T timesteps with their noise levels; t is 0-based and t = 0 is the least noisy."""

    def __init__(self, config: NoiseConfig) -> None:
        self.config = config
        self.T = config.timesteps
        self.alpha_bar = read_only(np.cumprod(1 - config.betas()))
        """abar_t = prod_{s <= t} (1 - beta_s); float64 [T]."""
        self._coefficients: dict[torch.device, tuple[Tensor, Tensor]] = {}

    @property
    def snr(self) -> FloatArray:
        """abar / (1 - abar)."""
        return snr(self.alpha_bar)

    @property
    def log_snr(self) -> FloatArray:
        """ln SNR."""
        return np.log(self.snr)

    @property
    def sigma(self) -> FloatArray:
        """The noise level of EDM, SNR^(-1/2): what is left to remove from x_t / sqrt(abar)."""
        return self.snr**-0.5

    def add_noise(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """x_t = sqrt(abar) x0 + sqrt(1 - abar) noise; t has shape [N]."""
        alpha, sigma = self._alpha_sigma(t, x0)
        return alpha * x0 + sigma * noise

    def target(
        self, x0: Tensor, noise: Tensor, t: Tensor, prediction_type: PredictionType
    ) -> Tensor:
        """What the denoiser has to predict: eps, v = sqrt(abar) eps - sqrt(1 - abar) x0, or x0."""
        if prediction_type == "epsilon":
            return noise
        if prediction_type == "sample":
            return x0
        alpha, sigma = self._alpha_sigma(t, x0)
        return alpha * noise - sigma * x0

    def predict_x0(
        self, x_t: Tensor, output: Tensor, t: Tensor, prediction_type: PredictionType
    ) -> Tensor:
        """The clean image that the denoiser's output stands for."""
        if prediction_type == "sample":
            return output
        alpha, sigma = self._alpha_sigma(t, x_t)
        if prediction_type == "epsilon":
            return (x_t - sigma * output) / alpha
        return alpha * x_t - sigma * output

    def scheduler_config(self) -> dict[str, Any]:
        """Keyword arguments that give diffusers' DDPMScheduler or DDIMScheduler this process."""
        config: dict[str, Any] = {"num_train_timesteps": self.T}
        if self.config.schedule == "cosine":
            return config | {"beta_schedule": "squaredcos_cap_v2"}
        first, last = self.config.beta_range()
        name = _BETAS[self.config.schedule][0]
        return config | {"beta_schedule": name, "beta_start": first, "beta_end": last}

    def _alpha_sigma(self, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """sqrt(abar) and sqrt(1 - abar) at t, float32, shaped to multiply `like`."""
        if t.device not in self._coefficients:
            roots = np.sqrt([self.alpha_bar, 1 - self.alpha_bar]).astype(np.float32)
            alpha, sigma = torch.from_numpy(roots).to(t.device)
            self._coefficients[t.device] = (alpha, sigma)
        shape = (-1,) + (1,) * (like.ndim - 1)
        alpha, sigma = self._coefficients[t.device]
        return alpha[t].view(shape), sigma[t].view(shape)
