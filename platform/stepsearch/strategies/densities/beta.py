"""A Beta density over the timesteps (B-TTDM, Zheng et al., ECCV 2024)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from stepsearch.strategies.base import FloatArray
from stepsearch.strategies.levels import beta_cdf, bin_time
from stepsearch.strategies.parts import DensityConfig


class BetaConfig(DensityConfig):
    """t = floor(T u) with u ~ Beta(a, b).

    With a < 1 and b = 1, as recommended, the least noisy steps are drawn more often:
    p_t = ((t + 1)^a - t^a) / T^a. a = b = 1 is uniform.
    """

    kind: Literal["beta"] = "beta"
    a: float = Field(default=0.8, gt=0, le=100)
    b: float = Field(default=1.0, gt=0, le=100)

    def density(self, alpha_bar: FloatArray) -> FloatArray:
        return bin_time(lambda u: beta_cdf(u, self.a, self.b), len(alpha_bar))
