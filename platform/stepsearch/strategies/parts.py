"""Families that only draw and families that only weigh: the two factors of a strategy."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable

import numpy as np

from stepsearch.strategies.base import (
    FloatArray,
    PredictionType,
    StrategyConfig,
    from_epsilon,
)

_TINY = 1e-100
"""Stands for alpha_bar = 0, so that weights take their limits there instead of 0/0."""
_ZERO = 1e-30
"""Below it a limit is 0."""


class DensityConfig(StrategyConfig):
    """A density p; w = 1 on the denoiser's own loss, whatever it predicts."""

    @abstractmethod
    def density(self, alpha_bar: FloatArray) -> FloatArray:
        """p on the process: sums to 1."""

    def weight(self, alpha_bar: FloatArray, prediction_type: PredictionType) -> FloatArray:
        return np.ones_like(alpha_bar)


class WeightConfig(StrategyConfig):
    """A weight w on uniform draws, defined on the eps-loss and converted to other targets."""

    @abstractmethod
    def on_epsilon(self, alpha_bar: FloatArray) -> FloatArray:
        """w on the eps-loss; alpha_bar is in (0, 1)."""

    def weight(self, alpha_bar: FloatArray, prediction_type: PredictionType) -> FloatArray:
        return for_target(self.on_epsilon, alpha_bar, prediction_type)


def for_target(
    on_epsilon: Callable[[FloatArray], FloatArray],
    alpha_bar: FloatArray,
    prediction_type: PredictionType,
) -> FloatArray:
    """A weight on the eps-loss, carried to the loss of the denoiser's own target.

    Where alpha_bar = 0 the weights of other targets take their limits. The eps-loss says nothing
    of x0 there, and its weight, which may have no limit, is that of the step before.
    """
    positive = np.maximum(alpha_bar, _TINY)
    w = on_epsilon(positive)
    if prediction_type == "epsilon":
        return np.where(alpha_bar > 0, w, w[np.flatnonzero(alpha_bar > 0)[-1]])
    w = from_epsilon(w, positive, prediction_type)
    return np.where((alpha_bar > 0) | (w > _ZERO), w, 0.0)
