"""Stable Diffusion 3's density with heavy tails ("mode sampling", Esser et al. 2024)."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from pydantic import Field

from stepsearch.strategies.base import FloatArray
from stepsearch.strategies.levels import bin_time
from stepsearch.strategies.parts import DensityConfig


class ModeConfig(DensityConfig):
    """t = floor(T f(U)), f(U) = 1 - U - scale (cos^2(pi U / 2) - 1 + U), U uniform in [0, 1].

    f falls from 1 to 0 for the scales that are allowed. scale > 0 prefers the middle, scale < 0
    the ends, 0 is uniform; p is symmetric.
    """

    kind: Literal["mode"] = "mode"
    scale: float = Field(default=1.29, ge=-1, le=2 / (math.pi - 2))

    def density(self, alpha_bar: FloatArray) -> FloatArray:
        return bin_time(lambda u: 1 - self._inverse(u), len(alpha_bar))

    def mapped(self, U: FloatArray) -> FloatArray:
        """f(U)."""
        return np.asarray(1 - U - self.scale * (np.cos(np.pi * U / 2) ** 2 - 1 + U))

    def _inverse(self, u: FloatArray) -> FloatArray:
        """U with f(U) = u, by bisection."""
        low, high = np.zeros_like(u), np.ones_like(u)
        for _ in range(60):
            middle = (low + high) / 2
            above = self.mapped(middle) > u
            low, high = np.where(above, middle, low), np.where(above, high, middle)
        middle = (low + high) / 2
        return np.where(u <= 0, 1.0, np.where(u >= 1, 0.0, middle))
