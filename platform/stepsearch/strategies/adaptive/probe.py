"""What one update of the weights did to the variational bound, at some timesteps."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from stepsearch.strategies.base import Step


class Probe:
    """Clean images, timesteps and noise that are evaluated before and after the update.

    The same ones twice (common random numbers): weights that stay the same give exactly 0.
    """

    def __init__(
        self, step: Step, grid: Tensor, selected: Tensor, images: int, coefficients: Tensor
    ) -> None:
        """One image of the batch, drawn by chance, at the timesteps `grid`, and the batch's first
        `images` at each of the timesteps `selected`. `coefficients` is c_t, [T]."""
        device = step.x0.device
        one = torch.randint(len(step.x0), (1,), generator=step.generator, device=device)
        probed = torch.arange(len(step.x0), device=device)[:images]
        self._rows = torch.cat([one.expand(len(grid)), probed.repeat_interleave(len(selected))])
        self._t = torch.cat([grid, selected.repeat(len(probed))])
        shape = len(self._t), *step.x0.shape[1:]
        self._noise = torch.randn(shape, generator=step.generator, device=device)
        self._scale = coefficients[self._t] / math.log(2)
        self._row, self._selected = len(grid), len(selected)
        self._before = self._bits(step)

    def decrease(self, step: Step) -> tuple[Tensor, Tensor]:
        """What the update took from the bound, in bits a dimension, float64: of the one image
        over the grid, [G], and of each of the images the mean over `selected`."""
        delta = self._before - self._bits(step)
        row, rewards = delta[: self._row], delta[self._row :]
        return row, rewards.view(-1, self._selected).mean(1)

    def _bits(self, step: Step) -> Tensor:
        return self._scale * step.evaluate(self._rows, self._t, self._noise).double()
