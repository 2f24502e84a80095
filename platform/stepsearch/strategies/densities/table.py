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
    from_epsilon,
)
from stepsearch.strategies.levels import bin_log_snr, bin_time, log_snr

NotNegative = Annotated[float, Field(ge=0)]
Level = Annotated[float, Field(ge=0, lt=1)]
_TINY = 1e-100
"""Stands for alpha_bar = 0."""


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
    """On the loss of the denoiser's own target; with `alpha_bar`, on the eps-loss."""
    alpha_bar: tuple[Level, ...] | None = Field(default=None, min_length=2, max_length=10_000)
    """Signal levels of p and w, falling."""

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
            p = _carried(p, np.array(self.alpha_bar), alpha_bar)
        else:
            p = np.ones(len(alpha_bar))
        return np.asarray(p / p.sum())

    def weight(self, alpha_bar: FloatArray, prediction_type: PredictionType) -> FloatArray:
        w = np.array(self.w)
        if self.alpha_bar is None:
            centres = (np.arange(len(alpha_bar)) + 0.5) / len(alpha_bar)
            return np.asarray(w[(centres * len(w)).astype(int)])
        here, there = _levels(alpha_bar), _levels(np.array(self.alpha_bar))
        w = np.interp(-here, -there, np.broadcast_to(w, there.shape))
        return from_epsilon(w, np.maximum(alpha_bar, _TINY), prediction_type)


def table_of(strategy: Strategy, alpha_bar: FloatArray) -> TableConfig:
    """A strategy, built for the eps-loss of the process `alpha_bar`, as a table to carry away."""
    levels = tuple(map(float, alpha_bar))
    return TableConfig(
        p=tuple(strategy.p.tolist()), w=tuple(strategy.w.tolist()), alpha_bar=levels
    )


def _carried(p: FloatArray, old: FloatArray, new: FloatArray) -> FloatArray:
    """Mass of bins around the levels `old`, spread evenly in log-SNR, binned onto `new`."""
    levels = _levels(old)
    middles = (levels[:-1] + levels[1:]) / 2
    edges = np.concatenate([[2 * levels[0] - middles[0]], middles, [2 * levels[-1] - middles[-1]]])
    above = np.concatenate([[0], np.cumsum(p)])
    return bin_log_snr(lambda at: 1 - np.interp(-at, -edges, above), np.maximum(new, _TINY))


def _levels(alpha_bar: FloatArray) -> FloatArray:
    return log_snr(np.maximum(alpha_bar, _TINY))
