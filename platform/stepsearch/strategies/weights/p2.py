"""P2 weighting: less weight on the low-noise steps that only clean up (Choi et al., CVPR 2022)."""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field

from stepsearch.strategies.base import FloatArray, snr
from stepsearch.strategies.parts import WeightConfig


class P2Config(WeightConfig):
    """Uniform density; w_t = 1 / (k + SNR_t)^gamma on the eps-loss.

    gamma = 1, k = 1 gives exactly 1 - abar; gamma = 0 gives no weighting at all.
    """

    kind: Literal["p2"] = "p2"
    gamma: float = Field(default=1.0, ge=0)
    """Strength; the paper uses 0.5 and 1."""
    k: float = Field(default=1.0, gt=0)
    """Keeps the weight of the noisiest steps bounded."""

    def on_epsilon(self, alpha_bar: FloatArray) -> FloatArray:
        return np.asarray((self.k + snr(alpha_bar)) ** -self.gamma)
