"""Debiased estimation: weigh by SNR^(-1/2), so that noisy steps count (arXiv 2310.08442)."""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field

from stepsearch.strategies.base import FloatArray, snr
from stepsearch.strategies.parts import WeightConfig


class DebiasedConfig(WeightConfig):
    """w_t = SNR_t^(-1/2) on the eps-loss: unbounded towards pure noise."""

    kind: Literal["debiased"] = "debiased"
    snr_max: float | None = Field(default=None, gt=0)
    """Higher SNRs count as this; none in the paper, 1000 in kohya's scripts and OneTrainer."""

    def on_epsilon(self, alpha_bar: FloatArray) -> FloatArray:
        capped = snr(alpha_bar)
        if self.snr_max is not None:
            capped = np.minimum(capped, self.snr_max)
        return np.asarray(capped**-0.5)
