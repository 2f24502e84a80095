"""Scale and noise of the continuous processes in SpeeD's Table 8: VP, VE and EDM.

x_t = s(t) (x0 + sigma(t) eps). Their tables feed `areas.increment_of(s, s sigma)`. Of sigma the
paper prints d(sigma^2)/dt for VE and EDM (1 and 2t) but dsigma/dt for VP; here it is dsigma/dt.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from stepsearch.strategies.base import FloatArray

Curve = Callable[[FloatArray], FloatArray]


@dataclass(frozen=True)
class Sde:
    """s, sigma and their derivatives by t > 0."""

    s: Curve
    sigma: Curve
    s_dot: Curve
    sigma_dot: Curve

    def alpha_bar(self, t: FloatArray) -> FloatArray:
        """The normalised signal level SNR / (1 + SNR) = 1 / (1 + sigma^2): tau's scale."""
        return 1 / (1 + self.sigma(t) ** 2)


def vp(beta_0: float, delta: float) -> Sde:
    """Variance-preserving with beta(t) = beta_0 + delta t, t in [0, 1]; s^2 (1 + sigma^2) = 1."""

    def sigma(t: FloatArray) -> FloatArray:
        return np.asarray(np.sqrt(np.expm1(delta * t**2 / 2 + beta_0 * t)))

    def sigma_dot(t: FloatArray) -> FloatArray:
        return np.asarray((1 + sigma(t) ** 2) * (delta * t + beta_0) / (2 * sigma(t)))

    return Sde(
        s=lambda t: np.exp(-delta * t**2 / 4 - beta_0 * t / 2),
        sigma=sigma,
        s_dot=lambda t: -sigma(t) * sigma_dot(t) / (1 + sigma(t) ** 2) ** 1.5,
        sigma_dot=sigma_dot,
    )


VE = Sde(
    s=np.ones_like,
    sigma=np.sqrt,
    s_dot=np.zeros_like,
    sigma_dot=lambda t: 1 / (2 * np.sqrt(t)),
)
EDM = Sde(s=np.ones_like, sigma=np.asarray, s_dot=np.zeros_like, sigma_dot=np.ones_like)
