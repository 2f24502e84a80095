"""Exponential moving averages of a denoiser's weights, which are what samples are drawn with."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from stepsearch.diffusion.flat import flatten_weights
from stepsearch.diffusion.training_config import TrainingConfig


class MovingAverage:
    """`module` is a copy of the denoiser whose weights follow it: ema += (1 - d) (weights - ema).

    d = min(decay, (1 + n) / (10 + n)) after n updates, so that the first weights are soon
    forgotten (TensorFlow's and diffusers' warm-up).
    """

    def __init__(self, denoiser: nn.Module, decay: float) -> None:
        self.module = copy.deepcopy(denoiser).eval()
        self.decay = decay
        self._average = flatten_weights(self.module)
        self.module.requires_grad_(False)

    @torch.no_grad()
    def update(self, weights: Tensor, updates: int) -> None:
        """Follow `weights`, the denoiser's flattened ones, after step `updates` (from 0)."""
        decay = min(self.decay, (1 + updates) / (10 + updates))
        self._average.lerp_(weights, 1 - decay)


class MovingAverages:
    """The one that is judged, `ema`, and `others` by their half-lives in images."""

    def __init__(self, denoiser: nn.Module, config: TrainingConfig) -> None:
        self.ema = MovingAverage(denoiser, config.ema_decay)
        self.others = {
            halflife: MovingAverage(denoiser, config.decay(halflife))
            for halflife in config.ema_halflives
        }

    def update(self, weights: Tensor, updates: int) -> None:
        """See `MovingAverage.update`."""
        for average in (self.ema, *self.others.values()):
            average.update(weights, updates)

    def state_dict(self) -> dict[str, Any]:
        """Part of a training's; refers to live tensors."""
        others = {halflife: other.module.state_dict() for halflife, other in self.others.items()}
        return {"ema": self.ema.module.state_dict(), "averages": others}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""
        self.ema.module.load_state_dict(state["ema"])
        for halflife, other in self.others.items():
            other.module.load_state_dict(state["averages"][halflife])
