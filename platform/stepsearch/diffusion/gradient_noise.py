"""The gradients of a training by noise level: their length, and how much one image's differs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from stepsearch.diffusion.step import Evaluator
from stepsearch.strategies.base import FloatArray

GROUPS = 4


@dataclass(frozen=True)
class GradientNoise:
    """Of the unweighted error's gradient in each bin of log-SNR; NaN in one without a timestep."""

    norm: FloatArray
    """Of the mean gradient g of a few images, |g|."""
    variance: FloatArray
    """E |g_i - E g_i|^2 over images i, their timesteps in the bin and their noise, unbiased."""


def gradient_noise(
    evaluator: Evaluator,
    bins: Tensor,
    count: int,
    x0: Tensor,
    generator: torch.Generator,
    labels: Tensor | None = None,
) -> GradientNoise:
    """From as many images [n, C, H, W] in each of `count` bins; n is a multiple of 4.

    `bins` [T] is each timestep's bin, `labels` [n] what a denoiser with classes is told. A bin's
    images are parted into 4 groups: the variance of a group's mean is that of one image over the
    group's size. All workers must ask for it, and draw the same.
    """
    found = [
        _of_bin(evaluator, members, x0, generator, labels) for members in _members(bins, count)
    ]
    norm, variance = np.array(found, dtype=np.float64).T
    return GradientNoise(norm, variance)


def _members(bins: Tensor, count: int) -> list[Tensor]:
    return [(bins == b).nonzero()[:, 0] for b in range(count)]


def _of_bin(
    evaluator: Evaluator,
    members: Tensor,
    x0: Tensor,
    generator: torch.Generator,
    labels: Tensor | None,
) -> tuple[float, float]:
    """Norm and variance; keeps the sum of the groups' gradients only, not all of them."""
    if not len(members):
        return np.nan, np.nan
    drawn = torch.randint(len(members), (len(x0),), generator=generator, device=x0.device)
    t, noise = members[drawn], torch.randn(x0.shape, generator=generator, device=x0.device)
    total, squares = torch.zeros((), device=x0.device), 0.0
    for part in torch.arange(len(x0), device=x0.device).chunk(GROUPS):
        told = None if labels is None else labels[part]
        gradient = evaluator.gradient(x0[part], t[part], noise[part], told)
        total, squares = total + gradient, squares + float(gradient.square().sum())
    mean = float((total / GROUPS).square().sum())
    spread = max(0.0, squares - GROUPS * mean) / (GROUPS - 1)
    return mean**0.5, spread * (len(x0) / GROUPS)
