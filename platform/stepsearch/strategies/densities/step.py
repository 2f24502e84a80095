"""SpeeD's asymmetric density: the timesteps before a boundary tau are drawn k times as often."""

from __future__ import annotations

from typing import Literal, NoReturn

import numpy as np
from pydantic import Field, model_validator

from stepsearch.errors import UserError
from stepsearch.strategies.base import FloatArray, StrategyConfig
from stepsearch.strategies.parts import DensityConfig

_PAPER_TAU = 0.7
"""tau / T in the paper's experiments."""


class StepDensity(StrategyConfig):
    """P(t) of SpeeD (arXiv 2405.17403), for the families that have it.

    tau, the boundary of the convergence area, is given in one of three ways: as an index `tau`,
    by the magnitude `r`, or as a level `abar`. Without any it is the paper's 0.7 T.
    """

    tau: int | None = Field(default=None, ge=1)
    """Timesteps t < tau are drawn k times as often as the rest; in 1..T."""
    r: float | None = Field(default=None, gt=1)
    """tau = the first t with abar <= 1/r; 7.2 is the paper's theory, 143 its experiments."""
    abar: float | None = Field(default=None, gt=0, lt=1)
    """tau = the first t with alpha_bar <= abar; carries tau from one process to another."""
    k: float = Field(default=5.0, ge=1)
    """How many times as often t < tau is drawn; 1 is uniform."""

    @model_validator(mode="after")
    def _one_boundary(self) -> StepDensity:
        given = [name for name in ("tau", "r", "abar") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(
                f"{self.kind} must have one of tau, r, abar, got {' and '.join(given)}"
            )
        return self

    def boundary(self, alpha_bar: FloatArray) -> int:
        """tau as an index in 1..T on this process."""
        T, highest, lowest = len(alpha_bar), alpha_bar[0], alpha_bar[-1]
        if self.r is not None:
            most = 1 / lowest if lowest else np.inf
            return first_below(alpha_bar, 1 / self.r) or self._refuse(
                f"r must be in {1 / highest:.5g}..{most:.5g} (1 / alpha_bar)", self.r
            )
        if self.abar is not None:
            return first_below(alpha_bar, self.abar) or self._refuse(
                f"abar must be in {lowest:.5g}..{highest:.5g} (alpha_bar)", self.abar
            )
        tau = round(_PAPER_TAU * T) if self.tau is None else self.tau
        return tau if tau <= T else self._refuse(f"tau must be in 1..{T} (T)", tau)

    def density(self, alpha_bar: FloatArray) -> FloatArray:
        """P(t) = k / (T + tau (k - 1)) for t < tau and 1 / (T + tau (k - 1)) from there on."""
        T, tau, k = len(alpha_bar), self.boundary(alpha_bar), self.k
        return np.where(np.arange(T) < tau, k, 1.0) / (T + tau * (k - 1))

    def _refuse(self, rule: str, value: float) -> NoReturn:
        raise UserError(f"{self.kind}.{rule}, got {value}")


class StepConfig(StepDensity, DensityConfig):
    """SpeeD's density alone."""

    kind: Literal["step"] = "step"


def first_below(alpha_bar: FloatArray, level: float) -> int:
    """The first t > 0 with alpha_bar <= level; 0 where the process does not cross that level."""
    return int(np.argmax(alpha_bar <= level))
