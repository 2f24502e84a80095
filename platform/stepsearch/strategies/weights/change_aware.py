"""SpeeD's change-aware weight: more where the noise level changes fast (arXiv 2405.17403)."""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field

from stepsearch.strategies.base import FloatArray
from stepsearch.strategies.parts import WeightConfig


class ChangeAwareConfig(WeightConfig):
    """w in [1 - lam, lam] along the slope of 1 - abar; SpeeD's weight without its density."""

    kind: Literal["change_aware"] = "change_aware"
    lam: float = Field(default=0.6, ge=0.5, le=1)
    """Weights lie in [1 - lam, lam]; 0.5 makes them constant."""

    def on_epsilon(self, alpha_bar: FloatArray) -> FloatArray:
        return change_aware(alpha_bar, self.lam)


def change_aware(alpha_bar: FloatArray, lam: float) -> FloatArray:
    """w_t = (1 - lam) + (2 lam - 1) (g_t - min g) / (max g - min g), g = d(1 - abar)/dt.

    Minima and maxima are over all T timesteps.
    """
    g = np.gradient(1 - alpha_bar)
    return np.asarray((1 - lam) + (2 * lam - 1) * (g - g.min()) / np.ptp(g))
