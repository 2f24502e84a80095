"""Min-SNR weighting: no step's weight on the x0-loss exceeds gamma (Hang et al., ICCV 2023)."""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field

from stepsearch.strategies.base import (
    FloatArray,
    PredictionType,
    StrategyConfig,
    from_epsilon,
    snr,
)


class MinSnrConfig(StrategyConfig):
    """Uniform density; w_t = min(SNR_t, gamma) / SNR_t on the eps-loss.

    Converted, this is min(SNR, gamma) / (SNR + 1) on the v-loss and min(SNR, gamma) on the
    x0-loss: the same weight on the x0 scale, as in the paper.
    """

    kind: Literal["min_snr"] = "min_snr"
    gamma: float = Field(default=5.0, gt=0)
    """The cap; the paper uses 5. From the highest SNR on, the eps-loss is not weighted at all."""

    def weight(self, alpha_bar: FloatArray, prediction_type: PredictionType) -> FloatArray:
        # min(SNR, gamma) / SNR, written so that SNR = 0 (zero terminal SNR) gives 1, not 0/0
        w = self.gamma / np.maximum(snr(alpha_bar), self.gamma)
        return from_epsilon(w, alpha_bar, prediction_type)
