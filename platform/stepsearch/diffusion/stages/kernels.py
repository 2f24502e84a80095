"""Noise kernels x_t = s_t (x_0 + sigma_t eps): the time of each is told by its sigma.

Two kernels at the same signal-to-noise ratio 1 / sigma^2 show the same picture, so a boundary
found on one holds on all. The VP formulas in the multi-stage paper's supplement (B.1) have s and
sigma swapped; these are the ones of its code.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from stepsearch.strategies.base import FloatArray

KernelName = Literal["vp", "ve", "edm"]


class Kernel(Protocol):
    """A way to count time."""

    def sigma(self, t: FloatArray) -> FloatArray:
        """Noise over signal at time t; it grows with t."""

    def time(self, sigma: FloatArray) -> FloatArray:
        """The inverse of `sigma`."""


@dataclass(frozen=True)
class VP:
    """sigma_t^2 = exp(beta_d t^2 / 2 + beta_min t) - 1, s_t^2 = 1 / (1 + sigma_t^2); 0 <= t <= 1.

    The DDPM's linear schedule in continuous time: timestep i of T is t = (i + 1) / T.
    """

    beta_d: float = 19.9
    beta_min: float = 0.1

    def sigma(self, t: FloatArray) -> FloatArray:
        return np.sqrt(np.expm1(self.beta_d * t**2 / 2 + self.beta_min * t))

    def time(self, sigma: FloatArray) -> FloatArray:
        root = np.sqrt(self.beta_min**2 + 2 * self.beta_d * np.log1p(sigma**2))
        return (root - self.beta_min) / self.beta_d


@dataclass(frozen=True)
class VE:
    """s_t = 1 and sigma_t = sigma_min (sigma_max / sigma_min)^t; t in [0, 1]."""

    sigma_min: float = 0.01
    sigma_max: float = 50.0

    def sigma(self, t: FloatArray) -> FloatArray:
        return self.sigma_min * (self.sigma_max / self.sigma_min) ** t

    def time(self, sigma: FloatArray) -> FloatArray:
        """0 for less noise than sigma_min."""
        ratio = np.maximum(sigma / self.sigma_min, 1)
        t: FloatArray = np.log(ratio) / np.log(self.sigma_max / self.sigma_min)
        return t


@dataclass(frozen=True)
class EDM:
    """s = 1; the time is sigma itself (c_noise = ln(sigma) / 4)."""

    def sigma(self, t: FloatArray) -> FloatArray:
        return t

    def time(self, sigma: FloatArray) -> FloatArray:
        return sigma


KERNELS: dict[KernelName, Kernel] = {"vp": VP(), "ve": VE(), "edm": EDM()}

T_MIN = 1e-3
"""The first time of the VP kernel at which anything is evaluated; sigma is 0 at t = 0."""


def matched(t: FloatArray, kernel: KernelName) -> FloatArray:
    """Times of a kernel with the signal-to-noise ratio of the VP kernel's times t."""
    return KERNELS[kernel].time(KERNELS["vp"].sigma(t))
