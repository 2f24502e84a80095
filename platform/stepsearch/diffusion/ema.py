"""The exponential moving average of a denoiser's weights, which is what samples are drawn with."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from stepsearch.diffusion.flat import flatten_weights


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
