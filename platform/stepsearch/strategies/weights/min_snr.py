"""Min-SNR weighting: no step's weight on the x0-loss exceeds gamma (Hang et al., ICCV 2023)."""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field

from stepsearch.strategies.base import FloatArray, snr
from stepsearch.strategies.parts import WeightConfig


class MinSnrConfig(WeightConfig):
    """Uniform density; w_t = min(SNR_t, gamma) / SNR_t on the eps-loss.

    Converted, this is min(SNR, gamma) / (SNR + 1) on the v-loss and min(SNR, gamma) on the
    x0-loss: the same weight on the x0 scale, as in the paper.
    """

    kind: Literal["min_snr"] = "min_snr"
    gamma: float = Field(default=5.0, gt=0)
    """The cap; the paper uses 5. From the highest SNR on, the eps-loss is not weighted at all."""

    def on_epsilon(self, alpha_bar: FloatArray) -> FloatArray:
        return self.gamma / np.maximum(snr(alpha_bar), self.gamma)
