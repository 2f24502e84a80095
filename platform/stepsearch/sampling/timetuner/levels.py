"""Trajectories by their noise levels: even in some function of them, or known from papers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np

from stepsearch.sampling.timetuner.dmn import dmn
from stepsearch.strategies.base import FloatArray

_SIGMA_DATA = 0.5
_GITS_CIFAR10 = (80, 10.9836, 3.8811, 1.584, 0.5666, 0.1698, 0.002)
"""Of GITS' released code, for 6 steps of EDM's CIFAR-10 denoiser."""

Levels = Callable[[int, float, float], FloatArray]
"""(K, log sigma of the noisiest level, of the least noisy one) -> the K sigmas, falling."""


def log_snr(K: int, first: float, last: float) -> FloatArray:
    levels: FloatArray = np.exp(np.linspace(first, last, K + 1)[:-1])
    return levels


def edm(K: int, first: float, last: float, rho: float = 7) -> FloatArray:
    levels: FloatArray = np.linspace(np.exp(first / rho), np.exp(last / rho), K) ** rho
    return levels


def ays(K: int, first: float, last: float) -> FloatArray:
    """Even in arctan(sigma / c), which is optimal for data N(0, c^2) (arXiv 2404.14507)."""
    low, high = (np.arctan(np.exp(end) / _SIGMA_DATA) for end in (last, first))
    levels: FloatArray = _SIGMA_DATA * np.tan(np.linspace(high, low, K + 1)[:-1])
    return levels


def gits(K: int, first: float, last: float) -> FloatArray:
    known = np.log(_GITS_CIFAR10)
    even = np.linspace(0, 1, K + 1)[:-1]
    shape = np.interp(even, np.linspace(0, 1, len(known)), known)
    levels: FloatArray = np.exp(np.interp(shape, known[[-1, 0]], [last, first]))
    return levels


def score_optimal(K: int, first: float, last: float) -> FloatArray:
    """Even in the cost of the scores, for data N(0, c^2) (arXiv 2412.07877).

    With v = alpha^2 c^2 + s^2 of x_t and s its noise, the cost of a step is delta dt^2 with

        delta = s^2 E|d/dt grad log p_t|^2 = s^2 (dv/dt)^2 / v^3,

    and the steps are even in its root's integral, asinh u - u / sqrt(1 + u^2) for
    u = s sqrt(1/c^2 - 1).
    """
    scale = np.sqrt(1 / _SIGMA_DATA**2 - 1)
    low, high = (scale / np.sqrt(1 + np.exp(-2 * end)) for end in (last, first))
    u = np.linspace(low, high, 10_000)
    cost = np.arcsinh(u) - u / np.sqrt(1 + u**2)
    s = np.interp(np.linspace(cost[-1], cost[0], K + 1)[1:-1], cost, u) / scale
    levels: FloatArray = np.append(np.exp(first), s / np.sqrt(1 - s**2))
    return levels


LEVELS: Mapping[str, Levels] = {
    "log_snr": log_snr,
    "edm": edm,
    "ays": ays,
    "gits": gits,
    "score_optimal": score_optimal,
    "dmn": partial(dmn, power=1),
    "dmn_latent": partial(dmn, power=2),
}
