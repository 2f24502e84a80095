"""The logit-normal density of Stable Diffusion 3 (Esser et al. 2024)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from stepsearch.strategies.base import FloatArray
from stepsearch.strategies.levels import bin_time, logit, normal_cdf
from stepsearch.strategies.parts import DensityConfig


class LogitNormalConfig(DensityConfig):
    """t = floor(T u) with u = sigmoid(N(mean, std^2)): the middle of the timesteps.

    `mean` > 0 prefers noise, as in the paper; diffusers counts u the other way round. "Log-normal"
    in the Adaptive paper (arXiv 2411.09998) is this one with 0, 1. It counts in t / T; the same
    density by noise level is edm_log_normal with the same mean and std.
    """

    kind: Literal["logit_normal"] = "logit_normal"
    mean: float = Field(default=0.0, ge=-10, le=10)
    std: float = Field(default=1.0, ge=0.05, le=10)

    def density(self, alpha_bar: FloatArray) -> FloatArray:
        return bin_time(lambda u: normal_cdf(logit(u), self.mean, self.std), len(alpha_bar))
