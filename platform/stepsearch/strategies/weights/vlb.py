"""The weights that make the loss the variational lower bound (Ho et al. 2020, eq. 12)."""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field

from stepsearch.strategies.base import FloatArray
from stepsearch.strategies.parts import WeightConfig


class VlbConfig(WeightConfig):
    """c_t = beta_t^2 / (2 sigma_t^2 alpha_t (1 - abar_t)) on the eps-loss.

    Almost flat but for the first steps, and for the cosine schedule's last one: c = 499.5 where
    the others have 0.01. `clip` is what keeps that step from being all of the loss.
    """

    kind: Literal["vlb"] = "vlb"
    variance: Literal["fixed_large", "fixed_small"] = "fixed_large"
    """sigma_t^2 = beta_t, or the posterior's; the latter is 0 at t = 0, which takes c_1."""
    clip: float = Field(default=1.0, gt=0)
    """The largest c."""

    def on_epsilon(self, alpha_bar: FloatArray) -> FloatArray:
        before = np.concatenate([[1.0], alpha_bar[:-1]])
        alpha = alpha_bar / before
        variance_left = 1 - (alpha_bar if self.variance == "fixed_large" else before)
        with np.errstate(divide="ignore"):
            c = (1 - alpha) / (2 * alpha * variance_left)
        if self.variance == "fixed_small":
            c[0] = c[1]
        return np.asarray(np.minimum(c, self.clip))
