"""A strategy given as numbers: drawn by hand, or carried over from another noise process."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from pydantic import Field, model_validator

from stepsearch.strategies.base import (
    FloatArray,
    PredictionType,
    Strategy,
    StrategyConfig,
)
from stepsearch.strategies.carry import carry_density, carry_weight
from stepsearch.strategies.levels import bin_time, log_snr

NotNegative = Annotated[float, Field(ge=0)]
Level = Annotated[float, Field(ge=0, lt=1)]


class TableConfig(StrategyConfig):
    """p and w as lists of numbers.

    Without `alpha_bar` they stand for equal shares of the timesteps: [3, 1] draws the first half
    three times as often. With it they stand for these signal levels, and are carried to other
    processes through log-SNR: p as mass between midpoints, w by interpolation.
    """

    kind: Literal["table"] = "table"
    p: tuple[NotNegative, ...] = Field(default=(1.0,), min_length=1, max_length=10_000)
    """Relative to each other; their sum is made 1."""
    w: tuple[NotNegative, ...] = Field(default=(1.0,), min_length=1, max_length=10_000)
    """On the loss of the denoiser's own target; with `alpha_bar`, of `prediction_type`."""
    alpha_bar: tuple[Level, ...] | None = Field(default=None, min_length=2, max_length=10_000)
    """Signal levels of p and w, falling."""
    prediction_type: PredictionType = "epsilon"
    """With `alpha_bar`: the target on whose loss w is."""

    @model_validator(mode="after")
    def _whole(self) -> TableConfig:
        if not sum(self.p) > 0:
            raise ValueError("table.p must have a number above 0, got none")
        if self.alpha_bar is None:
            return self
        if not all(a > b for a, b in zip(self.alpha_bar, self.alpha_bar[1:], strict=False)):
            raise ValueError("table.alpha_bar must be falling, got a level that is not")
        for name in ("p", "w"):
            if (got := len(getattr(self, name))) not in (1, len(self.alpha_bar)):
                raise ValueError(
                    f"table.{name} must have 1 or {len(self.alpha_bar)} numbers, got {got}"
                )
        return self

    def density(self, alpha_bar: FloatArray) -> FloatArray:
        p = np.array(self.p) / sum(self.p)
        if self.alpha_bar is None:
            edges, cdf = np.linspace(0, 1, len(p) + 1), np.concatenate([[0], np.cumsum(p)])
            p = bin_time(lambda u: np.interp(u, edges, cdf), len(alpha_bar))
        elif len(p) > 1:
            p = carry_density(p, log_snr(np.array(self.alpha_bar)), log_snr(alpha_bar))
        else:
            p = np.ones(len(alpha_bar))
        return np.asarray(p / p.sum())

    def weight(self, alpha_bar: FloatArray, prediction_type: PredictionType) -> FloatArray:
        w = np.array(self.w)
        if self.alpha_bar is None:
            centres = (np.arange(len(alpha_bar)) + 0.5) / len(alpha_bar)
            return np.asarray(w[(centres * len(w)).astype(int)])
        levels = log_snr(np.array(self.alpha_bar))
        return carry_weight(
            np.broadcast_to(w, levels.shape),
            levels,
            log_snr(alpha_bar),
            prediction_type=self.prediction_type,
            target=prediction_type,
        )


def table_of(
    strategy: Strategy, alpha_bar: FloatArray, prediction_type: PredictionType = "epsilon"
) -> TableConfig:
    """A strategy, built for this target on the process `alpha_bar`, as a table to carry away."""
    return TableConfig(
        p=tuple(strategy.p.tolist()),
        w=tuple(strategy.w.tolist()),
        alpha_bar=tuple(map(float, alpha_bar)),
        prediction_type=prediction_type,
    )
