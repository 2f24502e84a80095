"""A sampler's noise levels together with tau, by the gradient through all steps.

LD3 (Tong et al., ICLR 2025, arXiv 2405.15506) learns a sampler's steps and, apart from them, what
the network is told, so that it draws what a teacher draws. Here there is no teacher: the distance
of images to the data falls, as in `tune_end_to_end`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from stepsearch.sampling.timetuner.end_to_end import (
    EndToEndConfig,
    adam,
    check_images,
    distance_of_a_batch,
    free_slots,
    held_out,
    hold,
    told,
)
from stepsearch.sampling.timetuner.gradient import GradientConfig, Tuned, losses
from stepsearch.sampling.timetuner.network import Network
from stepsearch.sampling.timetuner.samplers import SolverConfig
from stepsearch.sampling.timetuner.shifts import ShiftedTimes

_MOST = 2.0
"""The logarithm of a gap moves by no more, so that no two steps fall together."""


@dataclass(frozen=True, eq=False)
class Moved:
    """A sampler whose noise levels were tuned together with tau."""

    sampler: SolverConfig
    """On the trajectory `given`; the one that was to be tuned, if nothing was closer."""
    network: Network
    """The network under this sampler."""
    tuned: Tuned
    """`untuned` are the times that belong to its levels; `distance` compares with the sampler that
    was to be tuned."""


def tune_jointly(
    build: Callable[[SolverConfig], Network],
    sampler: SolverConfig,
    images: Tensor,
    config: EndToEndConfig,
) -> Moved:
    """Levels and tau for a sampler, from clean images [n, C, H, W].

    `build` makes the network under a sampler. The first level and the end stay. Between them the
    gaps of the steps' times are a softmax, so that the steps keep their order; tau is a shift of a
    step's time towards its neighbour's, wherever that is. `config.lr` is also that of the gaps'
    logarithms. Raises UserError for fewer than two images, and for a sampler that cannot run
    levels of its own: one whose scheduler looks its timesteps up.
    """
    check_images(images)
    before = build(sampler)
    levels = before.solver.levels
    start = _Start(build(sampler.at(levels)))
    untuned = held_out(before, before.solver.times, images, config)
    gaps, r = start.tune(images, config)
    if gaps.isfinite().all() and r.isfinite().all():
        moved = sampler.at([levels[0], *start.levels(gaps), levels[-1]])
        network = build(moved)
        tau = _told(network, r)
        found = held_out(network, tau, images, config)
        if found < untuned:
            distance = (untuned, found)
            return Moved(moved, network, _tuned(network, tau, images, distance, config.iterations))
    nothing = _tuned(before, before.solver.times.clone(), images, (untuned, untuned), 0)
    return Moved(sampler, before, nothing)


def _tuned(
    network: Network,
    tau: Tensor,
    images: Tensor,
    distance: tuple[float, float],
    iterations: int,
) -> Tuned:
    nominal = network.solver.times
    loss, plain = (losses(network, times, images, GradientConfig()) for times in (tau, nominal))
    taken = (iterations,) * len(tau)
    return Tuned(tau, nominal.clone(), tuple(loss), tuple(plain), taken, distance)


def _shifted(network: Network) -> ShiftedTimes:
    solver = network.solver
    return ShiftedTimes(solver.times.tolist(), float(solver.end), solver.top)


def _told(network: Network, r: Tensor) -> Tensor:
    """tau [S] for shifts of the network's own times."""
    at = _shifted(network)
    return torch.tensor(at.times(r.tolist()).clip(at.end, at.top), dtype=torch.float32)


class _Start:
    """The steps before they move: their times and gaps."""

    def __init__(self, network: Network) -> None:
        self.network, self.at = network, _shifted(network)
        self.points = torch.tensor(self.at.points)
        self.index = torch.tensor(self.at.index)
        self.first = int(self.index[0])
        """Which point is the first step; it and those above stay."""
        self.gaps = self.points[: self.first + 1].diff().log()

    def tune(self, images: Tensor, config: EndToEndConfig) -> list[Tensor]:
        """The logarithms of the gaps, from the least noisy one on, and the shifts [S]."""
        gaps = self.gaps.clone().requires_grad_()
        r = torch.zeros(len(self.index), requires_grad=True)

        def distance(index: int) -> Tensor:
            t, down, up = self.moved(gaps)
            tau = t - r * torch.where(r >= 0, down, up)
            tau = told(tau, (down + up) / 2, self.at, index, config)
            network = self.network.under(self.network.solver.moved(t))
            return distance_of_a_batch(network, tau, images, index, config)

        def keep() -> None:
            hold(r, free_slots(self.at, config), config)
            gaps.copy_(gaps.clamp(self.gaps - _MOST, self.gaps + _MOST))

        return adam([gaps, r], distance, keep, config)

    def moved(self, gaps: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The times [S], and how far it is from each to its neighbours below and above."""
        points = self.places(gaps)
        t = points[self.index]
        down = t - points[(self.index - 1).clamp(min=0)]
        up = points[(self.index + 1).clamp(max=len(points) - 1)] - t
        return t.float(), down.float(), up.float()

    def places(self, gaps: Tensor) -> Tensor:
        """All points, moved; rising."""
        low, high = self.points[0], self.points[self.first]
        inner = low + (high - low) * gaps.softmax(0).cumsum(0)[:-1]
        return torch.cat([low[None], inner, self.points[self.first :]])

    def levels(self, gaps: Tensor) -> list[float]:
        """The noise levels of the steps after the first one."""
        steps = range(int(self.index[0]) - 1, int(self.index[-1]) - 1, -1)
        alpha, sigma = self.network.solver.scales_at(self.places(gaps)[list(steps)])
        return [float(level) for level in sigma / alpha]
