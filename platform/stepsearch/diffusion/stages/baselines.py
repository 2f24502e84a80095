"""Other ways to choose boundaries, told as times of the VP kernel."""

from __future__ import annotations

import numpy as np

from stepsearch.diffusion.stages.kernels import KERNELS
from stepsearch.diffusion.stages.partition import partition
from stepsearch.diffusion.stages.similarity import NODES
from stepsearch.strategies.base import FloatArray

Boundaries = tuple[float, ...]
"""n - 1 times that ascend; stage k is [t_k, t_(k+1))."""


def equal_times(n: int) -> Boundaries:
    """Stages of the same length."""
    return tuple(k / n for k in range(1, n))


def snr_clusters(n: int, timesteps: int = 1000) -> Boundaries:
    """Contiguous clusters of timesteps around a centre's log-SNR (Go et al. 2023), exactly.

    The cost is the sum of |log SNR_c - log SNR_t|, c the element in the middle of its cluster.
    """
    t = np.arange(1, timesteps + 1) / timesteps
    log_snr = -2 * np.log(KERNELS["vp"].sigma(t))
    sums = np.concatenate([[0.0], np.cumsum(log_snr)])
    i, j = np.ogrid[: timesteps + 1, : timesteps + 1]
    c = np.minimum(i + np.maximum(j - i, 0) // 2, timesteps - 1)
    # log-SNR falls: the terms before the centre are positive, those after it negative
    cost = (sums[c] - sums[i]) - (sums[j] - sums[c]) + (i + j - 2 * c) * log_snr[c]
    return _first_times(cost, n, t)


def gradient_clusters(n: int, similarity: FloatArray) -> Boundaries:
    """Clusters of timesteps whose gradients point where that of their middle one points.

    `similarity` [m, m] holds the cosines between the gradients of the denoiser's loss at t = 1/m,
    2/m ... 1 (Go et al. 2023); a cluster's cost is minus the sum of its members' with its centre.
    """
    m = len(similarity)
    sums = np.pad(similarity.cumsum(1), ((0, 0), (1, 0)))
    i, j = np.ogrid[: m + 1, : m + 1]
    c = np.minimum(i + np.maximum(j - i, 0) // 2, m - 1)
    return _first_times(sums[c, i] - sums[c, j], n, np.arange(1, m + 1) / m)


def equal_change(n: int, change: FloatArray) -> Boundaries:
    """Stages in which the optimal flow's velocity changes by the same amount.

    In the manner of curvature-based splitting (CBS): the monitor is |dv/dt| along the noising of
    a point, and its integral is the same in every stage, whatever the clock. `change` [20] holds
    the integral from each of NODES to the next.
    """
    so_far = np.concatenate([[0.0], np.cumsum(change)])
    wanted = so_far[-1] * np.arange(1, n) / n
    return tuple(float(t) for t in np.interp(wanted, so_far, NODES))


def _first_times(cost: FloatArray, n: int, t: FloatArray) -> Boundaries:
    """The first members of the clusters 2, 3 ..., of m / 2n to 3m / 2n members each."""
    m = len(t)
    cuts = partition(cost, n, smallest=m // (2 * n), largest=-(-3 * m // (2 * n)))
    return tuple(float(t[cut]) for cut in cuts)
