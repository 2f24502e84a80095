"""What SpeeD's repository calls log-normal: neither EDM's density nor Stable Diffusion 3's."""

from __future__ import annotations

from typing import Literal

import numpy as np

from stepsearch.strategies.base import FloatArray
from stepsearch.strategies.levels import logit
from stepsearch.strategies.parts import DensityConfig


class SpeedLogNormalConfig(DensityConfig):
    """p_t ~ f(s) s / (1 - s) with s = sqrt(1 - abar_t) and f the logit-normal(0, 1) density.

    The baseline behind the "Log-normal" column of SpeeD's Table 10. It has no parameters: for a
    standard deviation other than 1 the repository divides where it should multiply.
    """

    kind: Literal["speed_log_normal"] = "speed_log_normal"

    def density(self, alpha_bar: FloatArray) -> FloatArray:
        # f(s) s / (1 - s) = exp(-logit(s)^2 / 2) / (1 - s)^2 / sqrt(2 pi), also where s = 1
        x = logit(np.sqrt(1 - alpha_bar))
        p = np.exp(np.where(np.isinf(x), -np.inf, -(x**2) / 2 + 2 * np.logaddexp(0, x)))
        return np.asarray(p / p.sum())
