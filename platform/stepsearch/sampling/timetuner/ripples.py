"""Times around tau for the images of a batch, so that a slope is not that of a ripple.

A network sees t in sines of it, the fastest of period 2 pi. Whatever is lowered has their ripples,
steeper than its way down: the slope at one tau says next to nothing. Where the images of a batch
are told times that lie evenly around tau, the slope is that of the mean over them.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

WAVE = 2 * math.pi
"""In t, the period of the fastest sine of diffusers' time embeddings."""


def around(tau: Tensor, width: Tensor, n: int, chance: torch.Generator) -> Tensor:
    """n times for each of tau [S], evenly over its `width` [S] and in any order; [S, n]."""
    places = torch.stack([torch.randperm(n, generator=chance) for _ in tau])
    return tau[:, None] + width[:, None] * ((places + 0.5) / n - 0.5)
