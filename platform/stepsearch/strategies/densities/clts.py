"""The end point of curriculum learning on timesteps (CLTS, arXiv 2404.07946), made sane."""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field

from stepsearch.strategies.base import FloatArray
from stepsearch.strategies.parts import DensityConfig


class CltsConfig(DensityConfig):
    """p = (1 - l) / T + l N with N a normal density over t, normalised over the timesteps.

    With `phase` and its `ramp` l rises from 0, which is CLTS. SpeeD's version of it ends as a
    spike on one timestep, and is not reproduced; hence l <= 0.9.
    """

    kind: Literal["clts"] = "clts"
    mean: float = Field(default=0.3, ge=0, le=1)
    """Of N, as a share of T."""
    std: float = Field(default=0.2, ge=0.01, le=10)
    """Of N, as a share of T."""
    l: float = Field(default=0.5, ge=0, le=0.9)  # noqa: E741 (the paper's letter)
    """Share of N."""

    def density(self, alpha_bar: FloatArray) -> FloatArray:
        T = len(alpha_bar)
        n = np.exp(-((np.arange(T) / T - self.mean) ** 2) / (2 * self.std**2))
        return np.asarray((1 - self.l) / T + self.l * n / n.sum())
