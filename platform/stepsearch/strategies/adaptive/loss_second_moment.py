"""Importance sampling by the second moment of the loss (Nichol & Dhariwal, ICML 2021)."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from stepsearch.strategies.adaptive.history import empty_history, means, push
from stepsearch.strategies.adaptive.table import LearnedConfig, LearnedStrategy
from stepsearch.strategies.base import FloatArray, PredictionType


class LossSecondMomentConfig(LearnedConfig):
    """p_t proportional to sqrt(E[L_t^2]) and w_t = 1 / (T p_t), Improved DDPM's resampler.

    The expected gradient stays that of uniform timesteps with the same weighting; only its
    variance is lower. Uniform until every timestep has `history` losses.
    """

    kind: Literal["loss_second_moment"] = "loss_second_moment"
    history: int = Field(default=10, ge=1, le=1000)
    """Losses kept of every timestep."""
    floor: float = Field(default=0.001, ge=0, le=1)
    """The part of all draws that stays uniform (`uniform_prob`): no weight exceeds 1 / floor."""

    def build(
        self, alpha_bar: FloatArray, prediction_type: PredictionType = "epsilon"
    ) -> LossSecondMoment:
        _, w = self.tables(alpha_bar, prediction_type)
        return LossSecondMoment(self, w, empty_history(len(w), self.history), floor=self.floor)


class LossSecondMoment(LearnedStrategy):
    """Keeps the last losses of every timestep, with their weighting but before 1 / (T p_t)."""

    def learn(self, t: Tensor, loss: Tensor) -> None:
        self.state = push(self.state, t, loss * self.base_weight[t])

    def density(self) -> Tensor:
        """A timestep whose losses were all 0 is left to the floor, as in the paper's code."""
        warm = (self.state["count"][:-1] >= self.state["history"].shape[1]).all()
        moment = means(self.state, power=2).sqrt()
        return torch.where(warm & (moment.sum() > 0), moment, torch.ones_like(moment))

    def weight(self, p: Tensor) -> Tensor:
        # p = 0 is never drawn
        return self.base_weight / (self.T * p).clamp(min=torch.finfo(p.dtype).tiny)
