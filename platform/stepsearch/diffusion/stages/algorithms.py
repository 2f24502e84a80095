"""From similarities to boundaries: Algorithms 1 and 2 of the multi-stage paper."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stepsearch.diffusion.stages.partition import partition
from stepsearch.diffusion.stages.similarity import NODES, EndSimilarity
from stepsearch.strategies.base import FloatArray

TAUS = np.arange(10_001) / 10_000
"""The times that Algorithm 1 tries."""
_ENOUGH = 10
"""Samples below which a running mean says nothing."""


@dataclass(frozen=True)
class RunningMeans:
    """Means of the similarities from both ends up to tau, at TAUS; NaN below ten samples."""

    from_data: FloatArray
    from_noise: FloatArray


@dataclass(frozen=True)
class Crossing:
    """How far from an end the running mean stays at or above alpha."""

    tau: float
    """Before its first fall below alpha; the end itself where it is below from the start."""
    farthest: float
    """The farthest tau with a mean of alpha, as the paper has it; the end where there is none."""
    holds: bool
    """Whether there is any such tau."""


def running_means(ends: EndSimilarity) -> RunningMeans:
    """Of the similarity to the data's end over t <= tau and to the noise's end over t >= tau."""
    return RunningMeans(
        _running(ends.t, ends.to_data, TAUS),
        _running(1 - ends.t[::-1], ends.to_noise[::-1], 1 - TAUS),
    )


def three_stages(means: RunningMeans, alpha: float) -> tuple[Crossing, Crossing]:
    """Algorithm 1: where the first stage ends and where the third begins."""
    first = _crossing(means.from_data, alpha)
    third = _crossing(means.from_noise[::-1], alpha)
    return first, Crossing(_flip(third.tau), _flip(third.farthest), third.holds)


def any_stages(similarity: FloatArray, n: int) -> tuple[float, ...]:
    """Algorithm 2: the boundaries at which the sum of 1 - D over all pairs in a stage is least.

    That sum, not normalised, is the reading of equation 21 that gives the paper's boundaries. They
    lie half a cell above NODES.
    """
    cuts = partition(_block_sums(1 - similarity), n)
    return tuple(round(float(NODES[cut - 1]) + 0.025, 3) for cut in cuts)


def unlikeness(similarity: FloatArray, boundaries: tuple[float, ...]) -> float:
    """The mean of 1 - D over all pairs of times, those in different stages counting 0.

    What Algorithm 2 makes least; 0..1.
    """
    stage = np.searchsorted(boundaries, NODES, side="right")
    return float(np.where(stage[:, None] == stage, 1 - similarity, 0).mean())


def _running(t: FloatArray, values: FloatArray, taus: FloatArray) -> FloatArray:
    """Means of the values with t <= tau; t ascends."""
    sums = np.concatenate([[0.0], np.cumsum(values)])
    counts = np.searchsorted(t, taus, side="right")
    return np.where(counts >= min(_ENOUGH, len(t)), sums[counts] / np.maximum(counts, 1), np.nan)


def _crossing(means: FloatArray, alpha: float) -> Crossing:
    """`means` begins at its end; so do the times of the answer."""
    held = np.flatnonzero(means >= alpha)
    if len(held) == 0:
        return Crossing(0.0, 0.0, holds=False)
    fallen = np.flatnonzero(means < alpha)
    first = fallen[0] - 1 if len(fallen) else len(TAUS) - 1
    tau = TAUS[first] if first >= held[0] else 0.0
    return Crossing(float(tau), float(TAUS[held[-1]]), holds=True)


def _flip(tau: float) -> float:
    return round(1 - tau, 4)


def _block_sums(values: FloatArray) -> FloatArray:
    """[i, j]: the sum of values[i:j, i:j]."""
    corner = np.pad(values.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    diagonal = np.diag(corner)
    sums: FloatArray = diagonal - corner - corner.T + diagonal[:, None]
    return sums
