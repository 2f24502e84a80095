"""The network that gives every image a Beta distribution over the timesteps."""

from __future__ import annotations

import itertools
import math
from typing import Any

import torch
from torch import Tensor, nn

_POOLED = 4
"""Most height and width of what the convolutions hand on: those of a 32x32 image."""
_LOWEST, _HIGHEST = 0.1, 50.0
"""Bounds of a and b: beyond them a policy has collapsed to one timestep or to the two ends."""


class BetaPolicy(nn.Module):
    """x0 [n, C, H, W] -> a, b [n]; the timestep is t = round(u (T - 1)) with u ~ Beta(a, b).

    The paper's network (its code, for 32x32 images) has channels 32, 64, 128 and 256 hidden
    units; what is left of larger images is pooled to the same size. The last layer begins with
    weight 0 and bias 0.5, so that a = b = 0.974 for every image.
    """

    def __init__(self, shape: tuple[int, ...], channels: tuple[int, ...], hidden: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise((shape[0], *channels)):
            layers += [nn.Conv2d(before, after, 3, padding=1), nn.ReLU()]
            layers += [nn.MaxPool2d(2, ceil_mode=True)]
        left = [math.ceil(side / 2 ** len(channels)) for side in shape[1:]]
        pooled = [min(side, _POOLED) for side in left]
        if pooled != left:
            layers.append(nn.AdaptiveAvgPool2d((pooled[0], pooled[1])))
        self.features = nn.Sequential(*layers, nn.Flatten())
        last = nn.Linear(hidden, 2)
        self.head = nn.Sequential(
            nn.Linear(channels[-1] * math.prod(pooled), hidden),
            nn.ReLU(),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            last,
        )
        nn.init.zeros_(last.weight)
        nn.init.constant_(last.bias, 0.5)

    def forward(self, x0: Tensor) -> tuple[Tensor, Tensor]:
        raw = self.head(self.features(x0))
        a, b = bounded(nn.functional.softplus(raw) + 1e-5).unbind(1)
        return a, b


class _Bounded(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.clamp(_LOWEST, _HIGHEST)

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        outwards = ((x < _LOWEST) & (slope > 0)) | ((x > _HIGHEST) & (slope < 0))
        return slope.masked_fill(outwards, 0)


def bounded(x: Tensor) -> Tensor:
    """x inside the bounds; where it is outside, a gradient passes whose descent brings it back.

    `clamp` has none there: a policy that has collapsed would never return.
    """
    result: Tensor = _Bounded.apply(x)  # type: ignore[no-untyped-call]
    return result


def new_policy(
    shape: tuple[int, ...], channels: tuple[int, ...], hidden: int, generator: torch.Generator
) -> BetaPolicy:
    """A policy on the generator's device whose weights follow from it alone."""
    seed = torch.randint(2**62, (1,), generator=generator, device=generator.device)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(int(seed))
        return BetaPolicy(shape, channels, hidden).to(generator.device)
