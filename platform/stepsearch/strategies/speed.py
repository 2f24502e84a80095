"""SpeeD: draw the converged steps less, weigh the fast-changing ones more (arXiv 2405.17403)."""

from __future__ import annotations

from typing import Literal, NoReturn

import numpy as np
from pydantic import Field, model_validator

from stepsearch.errors import UserError
from stepsearch.strategies.base import (
    FloatArray,
    PredictionType,
    Strategy,
    StrategyConfig,
    from_epsilon,
)
from stepsearch.strategies.mirror import MirroredStrategy, meaningful_steps

_PAPER_TAU = 0.7
"""tau / T in the paper's experiments."""


class SpeedConfig(StrategyConfig):
    """SpeeD's asymmetric sampling and change-aware weighting (Wang et al., CVPR 2025).

    tau, the boundary of the convergence area, is given in one of three ways: as an index `tau`,
    by the magnitude `r`, or as a level `abar`. Without any it is the paper's 0.7 T.
    """

    kind: Literal["speed"] = "speed"
    tau: int | None = Field(default=None, ge=1)
    """Timesteps t < tau are drawn k times as often as the rest; in 1..T."""
    r: float | None = Field(default=None, gt=1)
    """tau = the first t with abar <= 1/r; 7.2 is the paper's theory, 143 its experiments."""
    abar: float | None = Field(default=None, gt=0, lt=1)
    """tau = the first t with alpha_bar <= abar; carries tau from one process to another."""
    k: float = Field(default=5.0, ge=1)
    """How many times as often t < tau is drawn; 1 is uniform."""
    lam: float = Field(default=0.6, ge=0.5, le=1)
    """Weights lie in [1 - lam, lam]; 0.5 makes them constant."""
    mirror: bool = False
    """Mirror about half of every batch, as the released code does (see mirror.py)."""
    convergence_weight: Literal["formula", "released"] = "formula"
    """`released`: w = 1 for t >= tau, as in the released code, instead of the formula's value."""

    @model_validator(mode="after")
    def _one_boundary(self) -> SpeedConfig:
        given = [name for name in ("tau", "r", "abar") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"speed must have one of tau, r, abar, got {' and '.join(given)}")
        return self

    def boundary(self, alpha_bar: FloatArray) -> int:
        """tau as an index in 1..T on this process."""
        T, highest, lowest = len(alpha_bar), alpha_bar[0], alpha_bar[-1]
        if self.r is not None:
            return _first_below(alpha_bar, 1 / self.r) or _refuse(
                f"r must be in {1 / highest:.5g}..{1 / lowest:.5g} (1 / alpha_bar)", self.r
            )
        if self.abar is not None:
            return _first_below(alpha_bar, self.abar) or _refuse(
                f"abar must be in {lowest:.5g}..{highest:.5g} (alpha_bar)", self.abar
            )
        tau = round(_PAPER_TAU * T) if self.tau is None else self.tau
        return tau if tau <= T else _refuse(f"tau must be in 1..{T} (T)", tau)

    def density(self, alpha_bar: FloatArray) -> FloatArray:
        """P(t) = k / (T + tau (k - 1)) for t < tau and 1 / (T + tau (k - 1)) from there on."""
        T, tau, k = len(alpha_bar), self.boundary(alpha_bar), self.k
        return np.where(np.arange(T) < tau, k, 1.0) / (T + tau * (k - 1))

    def weight(self, alpha_bar: FloatArray, prediction_type: PredictionType) -> FloatArray:
        """w_t = (1 - lam) + (2 lam - 1) (g_t - min g) / (max g - min g), g = d(1 - abar)/dt.

        Minima and maxima are over all T timesteps.
        """
        g = np.gradient(1 - alpha_bar)
        w = (1 - self.lam) + (2 * self.lam - 1) * (g - g.min()) / np.ptp(g)
        if self.convergence_weight == "released":
            w[self.boundary(alpha_bar) :] = 1.0
        return from_epsilon(w, alpha_bar, prediction_type)

    def build(
        self, alpha_bar: FloatArray, prediction_type: PredictionType = "epsilon"
    ) -> Strategy:
        if not self.mirror:
            return super().build(alpha_bar, prediction_type)
        p, w = self.tables(alpha_bar, prediction_type)
        return MirroredStrategy(p, w, m=meaningful_steps(alpha_bar), stratify=self.stratify)


def _first_below(alpha_bar: FloatArray, level: float) -> int:
    """The first t > 0 with alpha_bar <= level; 0 where the process does not cross that level."""
    return int(np.argmax(alpha_bar <= level))


def _refuse(rule: str, value: float) -> NoReturn:
    raise UserError(f"speed.{rule}, got {value}")
