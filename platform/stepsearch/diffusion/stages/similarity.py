"""How alike the optimal denoiser is at two times: the share of coordinates within eta.

Of the multi-stage paper (which calls it a functional distance):

    D(a, b) = (1/d) sum_j 1(|eps*_a(x_a) - eps*_b(x_b)|_j <= eta)

where x_a and x_b are the same y with the same noise eps. The two ends are what the paper's code
takes them for, which its text does not say: eps*_0 := eps, the noise itself, so that the likeness
to the data's end tests |y - E| / sigma <= eta; and eps*_1 := (x^ - mean of the data) / sigma at
the current x^, so that the likeness to the noise's end tests |E - mean| / sigma <= eta.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from stepsearch.diffusion.stages.kernels import KERNELS, T_MIN
from stepsearch.strategies.base import FloatArray

Progress = Callable[[float], None]
"""Called with the share of the work that is done."""


class Denoiser(Protocol):
    """The optimal denoiser, wherever its points are: see `OptimalDenoiser`."""

    def __len__(self) -> int: ...

    @property
    def span(self) -> Tensor: ...

    def batch(self, levels: int) -> int: ...

    def at(self, chosen: npt.NDArray[np.int64]) -> Tensor: ...

    def posterior_mean(self, y: Tensor, noise: Tensor, sigma: Tensor) -> Tensor: ...


NODES = np.append(np.arange(20) * 0.05 + T_MIN, 1.0)
"""The 21 times that Algorithm 2 compares."""


@dataclass(frozen=True)
class EndSimilarity:
    """K samples by time: likeness of the denoiser at t to both ends; float64 [K] each."""

    t: FloatArray
    """Ascending, uniform in [T_MIN, 1]."""
    to_data: FloatArray
    to_noise: FloatArray


@dataclass(frozen=True)
class GridSimilarity:
    """Means over sampled points at the times NODES."""

    similarity: FloatArray
    """D(a, b), float64 [21, 21]."""
    change: FloatArray
    """By how much the velocity of the optimal flow moves from a node to the next; float64 [20]."""


def end_similarity(
    denoiser: Denoiser, samples: int, eta: float, seed: int, progress: Progress
) -> EndSimilarity:
    """The samples of Algorithm 1: a time, a point and a noise each, whatever the memory."""
    random = np.random.default_rng(seed)
    t = np.sort(random.uniform(T_MIN, 1, samples))
    sigmas = KERNELS["vp"].sigma(t)
    chosen = random.integers(len(denoiser), size=samples)
    found: list[tuple[Tensor, Tensor]] = []
    step = min(denoiser.batch(1), _BATCH)
    for begin in range(0, samples, step):
        part = slice(begin, begin + step)
        y, noise = _draw(denoiser, chosen[part], random)
        sigma = torch.from_numpy(sigmas[part, None]).to(y)
        mean = denoiser.posterior_mean(y, noise, sigma)[:, 0]
        tolerance = eta * sigma * denoiser.span.to(y)
        found.append((_share((y - mean).abs(), tolerance), _share(mean.abs(), tolerance)))
        progress(min(1.0, (begin + step) / samples))
    to_data, to_noise = (torch.cat(each).numpy() for each in zip(*found, strict=True))
    return EndSimilarity(t, to_data, to_noise)


def grid_similarity(
    denoiser: Denoiser, samples: int, eta: float, seed: int, progress: Progress
) -> GridSimilarity:
    """The samples of Algorithm 2: each point with its noise at all of NODES."""
    random = np.random.default_rng((seed, 2))
    chosen = random.integers(len(denoiser), size=samples)
    levels = KERNELS["vp"].sigma(NODES)
    similarity = torch.zeros(len(NODES), len(NODES), dtype=torch.float64)
    change = torch.zeros(len(NODES) - 1, dtype=torch.float64)
    step = min(denoiser.batch(len(NODES)), _BATCH)
    for begin in range(0, samples, step):
        y, noise = _draw(denoiser, chosen[begin : begin + step], random)
        sigma = torch.from_numpy(levels).to(y).expand(len(y), -1)
        mean = denoiser.posterior_mean(y, noise, sigma)
        change += _change(y, mean, sigma)
        # eps*_a - eps is enough: the same eps is in both terms of a difference
        error = mean.neg_().add_(y[:, None]).div_(sigma[..., None])
        similarity += _pairs(error, eta * denoiser.span.to(y))
        progress(min(1.0, (begin + step) / samples))
    return GridSimilarity((similarity / samples).numpy(), (change / samples).numpy())


_BATCH = 512
"""Points at a time: larger ones are not faster, and progress is shown after each."""


def _draw(
    denoiser: Denoiser, chosen: npt.NDArray[np.int64], random: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Points and noise, both [B, d]; numpy draws the same numbers in whatever pieces."""
    y = denoiser.at(chosen)
    noise = random.standard_normal(y.shape, dtype=np.float32)
    return y, torch.from_numpy(noise).to(y.device)


def _share(values: Tensor, tolerance: Tensor) -> Tensor:
    return (values <= tolerance).sum(-1).cpu().double() / values.shape[-1]


def _change(y: Tensor, mean: Tensor, sigma: Tensor) -> Tensor:
    """Sum over the points of |v_b - v_a| between neighbouring times.

    v = eps* - E is the velocity of the straight path (1 - u) x_0 + u eps, u = sigma / (1 + sigma);
    eps, which is the same at both times, is left out.
    """
    total = []
    before = None
    for level in range(sigma.shape[1]):
        velocity = (y - mean[:, level]) / sigma[:, level, None] - mean[:, level]
        if before is not None:
            total.append((velocity - before).norm(dim=1).sum())
        before = velocity
    return torch.stack(total).cpu().double()


def _pairs(error: Tensor, tolerance: Tensor) -> Tensor:
    """Sum over the points of D(a, b) for all pairs of times; error [B, L, d] gives [L, L]."""
    levels = error.shape[1]
    total = torch.eye(levels, dtype=torch.float64) * len(error)
    for a in range(levels):
        for b in range(a + 1, levels):
            alike = _share((error[:, a] - error[:, b]).abs(), tolerance).sum()
            total[a, b] = total[b, a] = alike
    return total
