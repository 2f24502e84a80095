"""Variance-preserving processes: DDPM's, and those that replaced its schedule of betas."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from torch import Tensor

from stepsearch.diffusion.noise.base import Levels, NoiseProcess, ProcessConfig
from stepsearch.strategies.base import FloatArray, PredictionType

Schedule = Literal["linear", "quad", "cosine", "scaled_linear", "const"]

# schedule: (diffusers' beta_schedule, first and last beta of a process with 1000 timesteps)
_BETAS: dict[str, tuple[str, float, float]] = {
    "linear": ("linear", 1e-4, 0.02),  # DDPM
    "quad": ("scaled_linear", 1e-4, 0.02),  # DDIM
    "scaled_linear": ("scaled_linear", 8.5e-4, 0.012),  # Stable Diffusion
    "const": ("linear", 0.02, 0.02),
}
_MAX_COSINE_BETA = 0.999


class VPConfig(ProcessConfig):
    """A variance-preserving process x_t = sqrt(abar_t) x0 + sqrt(1 - abar_t) eps.

    The betas are scaled by 1000 / T, so that every T ends at about the same noise.
    """

    kind: Literal["vp"] = "vp"
    schedule: Schedule = "linear"
    """quad: sqrt(beta) is linear; scaled_linear: quad with Stable Diffusion's betas."""
    zero_terminal_snr: bool = False
    """Rescale the schedule so that no signal at all is left at t = T - 1 (Lin et al. 2024)."""

    @property
    def targets(self) -> tuple[PredictionType, ...]:
        """Without signal in x_t, eps says nothing of the image."""
        if self.zero_terminal_snr:
            return ("v_prediction", "sample")
        return ("epsilon", "v_prediction", "sample")

    def build(self) -> VPProcess:
        return VPProcess(self)

    def beta_range(self) -> tuple[float, float]:
        """The first and the last beta before any rescaling; not for the cosine schedule."""
        _, first, last = _BETAS[self.schedule]
        scale = 1000 / self.timesteps
        return scale * first, scale * last

    def betas(self) -> FloatArray:
        """The variance beta_t that step t adds; float64 [T]."""
        betas = self._schedule()
        return _zero_terminal_snr(betas) if self.zero_terminal_snr else betas

    def _schedule(self) -> FloatArray:
        if self.schedule == "cosine":
            return _cosine_betas(self.timesteps)
        power = 2 if _BETAS[self.schedule][0] == "scaled_linear" else 1
        first, last = (beta ** (1 / power) for beta in self.beta_range())
        betas: FloatArray = np.linspace(first, last, self.timesteps) ** power
        return betas

    def _described(self) -> str:
        rescaled = " with zero_terminal_snr" if self.zero_terminal_snr else ""
        return super()._described() + rescaled


def _cosine_betas(T: int) -> FloatArray:
    """beta_i = min(1 - f((i + 1)/T) / f(i/T), 0.999) (Nichol & Dhariwal 2021, eq. 17)."""
    u = np.arange(T + 1) / T
    f = np.cos((u + 0.008) / 1.008 * np.pi / 2) ** 2
    betas: FloatArray = np.minimum(1 - f[1:] / f[:-1], _MAX_COSINE_BETA)
    return betas


def _zero_terminal_snr(betas: FloatArray) -> FloatArray:
    """Shift and scale sqrt(abar): it ends at 0, begins as before (Lin et al. 2024, alg. 1)."""
    root = np.sqrt(np.cumprod(1 - betas))
    abar = ((root - root[-1]) * root[0] / (root[0] - root[-1])) ** 2
    alphas: FloatArray = np.append(abar[0], abar[1:] / abar[:-1])
    return 1 - alphas


class VPProcess(NoiseProcess):
    """x_t = sqrt(abar_t) x0 + sqrt(1 - abar_t) eps."""

    kind = "vp"
    config: VPConfig

    def __init__(self, config: VPConfig) -> None:
        rescaled = "_zero_snr" if config.zero_terminal_snr else ""
        super().__init__(config, config.schedule + rescaled, np.cumprod(1 - config.betas()))
        self._levels = Levels(np.sqrt(self.alpha_bar), np.sqrt(1 - self.alpha_bar))

    def coefficients(self, t: Tensor) -> tuple[Tensor, Tensor]:
        alpha, sigma = self._levels.at(t)
        return alpha, sigma

    def target(
        self, x0: Tensor, noise: Tensor, t: Tensor, prediction_type: PredictionType
    ) -> Tensor:
        """eps, v = sqrt(abar) eps - sqrt(1 - abar) x0, or x0."""
        if prediction_type == "epsilon":
            return noise
        if prediction_type == "sample":
            return x0
        alpha, sigma = self._coefficients_for(x0, t)
        return alpha * noise - sigma * x0

    def predict_x0(
        self, x_t: Tensor, output: Tensor, t: Tensor, prediction_type: PredictionType
    ) -> Tensor:
        if prediction_type == "sample":
            return output
        alpha, sigma = self._coefficients_for(x_t, t)
        if prediction_type == "epsilon":
            return (x_t - sigma * output) / alpha
        return alpha * x_t - sigma * output

    def scheduler_config(self) -> dict[str, Any]:
        """For DDPMScheduler and DDIMScheduler."""
        config: dict[str, Any] = {"num_train_timesteps": self.T}
        if self.config.zero_terminal_snr:
            config["rescale_betas_zero_snr"] = True
        if self.config.schedule == "cosine":
            return config | {"beta_schedule": "squaredcos_cap_v2"}
        first, last = self.config.beta_range()
        name = _BETAS[self.config.schedule][0]
        return config | {"beta_schedule": name, "beta_start": first, "beta_end": last}
