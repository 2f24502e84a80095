"""The Laplace density over log-SNR (Hang et al., arXiv 2407.03297, ICCV 2025)."""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field

from stepsearch.strategies.base import FloatArray
from stepsearch.strategies.levels import bin_log_snr
from stepsearch.strategies.parts import DensityConfig


class LaplaceConfig(DensityConfig):
    """p(lambda) = exp(-|lambda - mu| / b) / (2 b) over lambda = log-SNR, binned onto timesteps.

    Peaks where signal and noise are alike (mu = 0).
    """

    kind: Literal["laplace"] = "laplace"
    mu: float = Field(default=0.0, ge=-20, le=20)
    b: float = Field(default=0.5, ge=0.05, le=20)

    def density(self, alpha_bar: FloatArray) -> FloatArray:
        return bin_log_snr(self._cdf, alpha_bar)

    def _cdf(self, levels: FloatArray) -> FloatArray:
        tail = np.exp(-abs(levels - self.mu) / self.b) / 2
        return np.where(levels < self.mu, tail, 1 - tail)
