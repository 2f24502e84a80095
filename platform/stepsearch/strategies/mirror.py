"""SpeeD's mirror: about half of every batch is reflected at the last meaningful timestep."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from stepsearch.errors import UserError
from stepsearch.strategies.base import (
    FloatArray,
    PredictionType,
    Strategy,
    StrategyConfig,
    TableStrategy,
)

NO_MEANING = 1e-4
"""Steps that raise the noise's standard deviation by less than this have no meaning left."""


def meaningful_steps(alpha_bar: FloatArray, where: str = "speed") -> int:
    """m = 1 + the first t with d sqrt(1 - abar)/dt < 1e-4 (SpeeD's released code).

    The threshold is per step, so m depends on T. Raises UserError where no step is meaningless:
    there is nothing to mirror at.
    """
    T = len(alpha_bar)
    meaningless = np.gradient(np.sqrt(1 - alpha_bar)) < NO_MEANING
    m = int(np.argmax(meaningless)) + 1
    if not 1 < m < T:
        raise UserError(
            f"{where}.mirror must be false on this noise process (T = {T}): "
            f"sqrt(1 - alpha_bar) never changes by less than {NO_MEANING} a step"
        )
    return m


class MirroredStrategy(TableStrategy):
    """Draws a = n//2 + 1 timesteps from p and mirrors the first n - a of them: t -> |m - t|.

    The marginal is therefore not p but depends on n; batches of one or two have no mirrored
    draws. Weights are looked up at the mirrored timestep.
    """

    def __init__(self, p: FloatArray, w: FloatArray, *, m: int, **draws: bool) -> None:
        super().__init__(p, w, **draws)
        self.m = m

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        t = super().draw(n // 2 + 1, generator)
        return torch.cat([t, (self.m - t).abs()])[:n]

    def marginal(self, n: int) -> FloatArray:
        """q(t) = (a P(t) + (n - a) d(t)) / n with d(t) = P(m - t) + P(t + m), d(0) = P(m)."""
        T = len(self.p)
        d = np.bincount(abs(self.m - np.arange(T)), weights=self.p, minlength=T)
        a = n // 2 + 1
        return np.asarray((a * self.p + (n - a) * d) / n)


class MirrorableConfig(StrategyConfig):
    """A family whose draws may be mirrored."""

    mirror: bool = False
    """Mirror about half of every batch, as SpeeD's released code does."""

    def build(
        self, alpha_bar: FloatArray, prediction_type: PredictionType = "epsilon"
    ) -> Strategy:
        if not self.mirror:
            return super().build(alpha_bar, prediction_type)
        p, w = self.tables(alpha_bar, prediction_type)
        return MirroredStrategy(p, w, m=meaningful_steps(alpha_bar, self.kind), **self.draws())
