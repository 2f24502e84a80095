"""The baseline: every timestep is as likely and weighs as much as any other."""

from __future__ import annotations

from typing import Literal

import numpy as np

from stepsearch.strategies.base import FloatArray, PredictionType, StrategyConfig


class UniformConfig(StrategyConfig):
    """p = 1/T and w = 1 on the denoiser's own loss, whatever it predicts (Ho et al. 2020)."""

    kind: Literal["uniform"] = "uniform"

    def weight(self, alpha_bar: FloatArray, prediction_type: PredictionType) -> FloatArray:
        return np.ones_like(alpha_bar)
