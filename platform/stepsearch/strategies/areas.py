"""SpeeD's analysis of a noise process: the increment between neighbours, and its three areas.

With *independent* noise in both, delta_t = x_{t+1} - x_t ~ N(phi_t x0, Psi_t I). (Along one chain
of the process the variance is far smaller; the paper, arXiv 2405.17403, means the former.)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stepsearch.errors import UserError
from stepsearch.strategies.base import FloatArray
from stepsearch.strategies.densities.step import first_below


@dataclass(frozen=True)
class Increment:
    """Mean and variance of delta_t for t = 0..T-2, with Theorem 1's bounds."""

    phi: FloatArray
    """Of the mean, phi_t x0: (sqrt(alpha_{t+1}) - 1) sqrt(abar_t)."""
    psi: FloatArray
    """Variance: 2 - abar_t (1 + alpha_{t+1})."""
    phi_bound: FloatArray
    """phi_t^2 <= max_s beta_s e^{-g(t)}."""
    psi_bound: FloatArray
    """Psi_t >= 2 (1 - e^{-g(t)})."""


@dataclass(frozen=True)
class Areas:
    """Where a process changes ever faster, ever slower, and hardly any more; 0-based."""

    T: int
    peak: int
    """The noise variance grows fastest here: acceleration ends, deceleration begins."""
    tau: int
    """Convergence begins: the first t with alpha_bar <= 1/r."""

    @property
    def shares(self) -> tuple[float, float, float]:
        """Of acceleration, deceleration and convergence in the T timesteps."""
        return self.peak / self.T, (self.tau - self.peak) / self.T, 1 - self.tau / self.T


def increment(alpha_bar: FloatArray) -> Increment:
    """phi_t and Psi_t of a process, and their bounds by its betas.

    g(t) = sum_{s <= t} beta_s, for which abar_t <= e^{-g(t)} on every schedule (Lemma 1). On the
    linear one it is the paper's beta_0 t + Delta t^2 / (2 T) plus Delta t / (2 T).
    """
    phi, psi = increment_of(np.sqrt(alpha_bar), np.sqrt(1 - alpha_bar))
    beta = 1 - alpha_bar / np.concatenate([[1.0], alpha_bar[:-1]])
    left = np.exp(-np.cumsum(beta))[:-1]
    return Increment(phi, psi, beta.max() * left, 2 * (1 - left))


def increment_of(s: FloatArray, std: FloatArray) -> tuple[FloatArray, FloatArray]:
    """phi_t and Psi_t of any process x_t = s_t x0 + std_t eps."""
    return np.diff(s), std[1:] ** 2 + std[:-1] ** 2


def change(alpha_bar: FloatArray) -> FloatArray:
    """d(1 - abar)/dt, half of dPsi/dt but for terms of the order of beta; [T]."""
    return np.gradient(1 - alpha_bar)


def areas(alpha_bar: FloatArray, r: float = 7.2) -> Areas:
    """The three areas of a process; r = 7.2 is the boundary of the paper's figure.

    Raises UserError where alpha_bar does not cross 1/r after the fastest change.
    """
    peak = int(change(alpha_bar).argmax())
    least, most = 1 / alpha_bar[peak], 1 / alpha_bar[-1] if alpha_bar[-1] else np.inf
    if not least < r <= most:
        rule = f"in {least:.4g}..{most:.4g} (1 / alpha_bar from the fastest change on)"
        raise UserError(f"r must be {rule}, got {r:g}")
    return Areas(len(alpha_bar), peak, first_below(alpha_bar, 1 / r))


@dataclass(frozen=True)
class LinearBetas:
    """The paper's closed forms for the linear schedule; t counts from 1 and may be a fraction."""

    first: float
    last: float
    T: int

    @property
    def delta(self) -> float:
        """Delta_beta."""
        return self.last - self.first

    @property
    def beta_0(self) -> float:
        """beta_1 - Delta_beta / T."""
        return self.first - self.delta / self.T

    def g(self, t: FloatArray) -> FloatArray:
        """beta_0 t + Delta_beta t^2 / (2 T); abar_t <= e^{-g(t)}."""
        return np.asarray(self.beta_0 * t + self.delta * t**2 / (2 * self.T))

    def phi_bound(self, t: FloatArray) -> FloatArray:
        """beta_max e^{-g(t)}, above ||phi_t||^2 / ||E x0||^2."""
        return self.last * np.exp(-self.g(t))

    def psi_bound(self, t: FloatArray) -> FloatArray:
        """2 (1 - e^{-g(t)}), below Psi_t."""
        return 2 * (1 - np.exp(-self.g(t)))

    def peak(self) -> float:
        """Where psi_bound grows fastest: sqrt(T / Delta) - T beta_0 / Delta."""
        return float(np.sqrt(self.T / self.delta) - self._offset)

    def tau(self, r: float) -> float:
        """Where e^{-g} = 1/r: sqrt(2 T ln r / Delta + (T beta_0 / Delta)^2) - T beta_0 / Delta."""
        return float(np.sqrt(2 * self.T * np.log(r) / self.delta + self._offset**2) - self._offset)

    @property
    def _offset(self) -> float:
        return self.T * self.beta_0 / self.delta
