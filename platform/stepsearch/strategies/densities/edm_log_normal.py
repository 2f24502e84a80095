"""EDM's log-normal density over the noise level sigma (Karras et al. 2022)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from stepsearch.strategies.base import FloatArray
from stepsearch.strategies.levels import bin_log_snr, normal_cdf
from stepsearch.strategies.parts import DensityConfig


class EdmLogNormalConfig(DensityConfig):
    """ln sigma ~ N(mean, std^2), binned onto the timesteps; ln sigma = -log-SNR / 2.

    EDM uses -1.2, 1.2; EDM2 uses -0.4, 1.0 (512 px latents) and -0.8, 1.6 (64 px images).
    """

    kind: Literal["edm_log_normal"] = "edm_log_normal"
    mean: float = Field(default=-1.2, ge=-10, le=10)
    """P_mean."""
    std: float = Field(default=1.2, ge=0.05, le=10)
    """P_std."""

    def density(self, alpha_bar: FloatArray) -> FloatArray:
        return bin_log_snr(
            lambda levels: normal_cdf(levels, -2 * self.mean, 2 * self.std), alpha_bar
        )
