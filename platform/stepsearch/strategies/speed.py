"""SpeeD: draw the converged steps less, weigh the fast-changing ones more (arXiv 2405.17403)."""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field

from stepsearch.strategies.base import FloatArray, PredictionType
from stepsearch.strategies.densities.step import StepDensity
from stepsearch.strategies.mirror import NO_MEANING, MirrorableConfig
from stepsearch.strategies.parts import for_target
from stepsearch.strategies.weights.change_aware import change_aware
from stepsearch.strategies.weights.p2 import P2Config


class _Speed(StepDensity, MirrorableConfig):
    """SpeeD's asymmetric sampling and change-aware weighting (Wang et al., CVPR 2025)."""

    lam: float = Field(default=0.6, ge=0.5, le=1)
    """Weights lie in [1 - lam, lam]; 0.5 makes them constant."""
    convergence_weight: Literal["formula", "released"] = "formula"
    """`released`: w = 1 for t >= tau, as in the released code, instead of the formula's value."""

    def weight(self, alpha_bar: FloatArray, prediction_type: PredictionType) -> FloatArray:
        return for_target(self._on_epsilon, alpha_bar, prediction_type)

    def _on_epsilon(self, alpha_bar: FloatArray) -> FloatArray:
        w = change_aware(alpha_bar, self.lam)
        if self.convergence_weight == "released":
            w[self.boundary(alpha_bar) :] = 1.0
        return w


class SpeedConfig(_Speed):
    """SpeeD as the paper has it: P(t) of `step` times the weight of `change_aware`.

    tau, the boundary of the convergence area, is an index `tau`, a magnitude `r` or a level
    `abar`; without any it is the paper's 0.7 T.
    """

    kind: Literal["speed"] = "speed"


class SpeedReleasedConfig(_Speed):
    """SpeeD as its released code has it: mirrored draws, and w = 1 from tau on."""

    kind: Literal["speed_released"] = "speed_released"
    mirror: bool = True
    convergence_weight: Literal["formula", "released"] = "released"


class SpeedV1Config(MirrorableConfig):
    """SpeeD's older code, also in Open-Sora 1.1: another boundary, P2's weights, mirrored draws.

    p_t ~ tanh(1e6 (d sqrt(1 - abar)/dt - 1e-4)) + 1.5: five times as often before the last
    meaningful step as after it, with a soft edge.
    """

    kind: Literal["speed_v1"] = "speed_v1"
    mirror: bool = True

    def density(self, alpha_bar: FloatArray) -> FloatArray:
        change = np.gradient(np.sqrt(1 - alpha_bar))
        p = np.tanh(1e6 * (change - NO_MEANING)) + 1.5
        return np.asarray(p / p.sum())

    def weight(self, alpha_bar: FloatArray, prediction_type: PredictionType) -> FloatArray:
        return P2Config(gamma=1, k=1).weight(alpha_bar, prediction_type)
