"""Timesteps in bins of the noise level, for what is learned of their losses."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from stepsearch.strategies.base import FloatArray, PredictionType, from_epsilon, snr

_MOST = 1e8
"""SNR is kept in 1e-8..1e8: ln sigma of a process that ends at SNR 0 stays finite."""


def log_sigma(alpha_bar: FloatArray) -> FloatArray:
    """ln sigma of EDM, sigma = SNR^(-1/2)."""
    return np.asarray(-np.log(np.clip(snr(alpha_bar), 1 / _MOST, _MOST)) / 2)


def equal_bins(values: FloatArray, count: int) -> npt.NDArray[np.int64]:
    """The bin of each value, of `count` equally wide ones; some may be empty."""
    edges = np.linspace(values.min(), values.max(), count + 1)
    return np.asarray(np.searchsorted(edges[1:-1], values, side="right"), dtype=np.int64)


def x0_factor(alpha_bar: FloatArray, prediction_type: PredictionType) -> FloatArray:
    """||target - output||^2 / ||x0 - x0^||^2: SNR for eps, SNR + 1 for v and 1 for x0."""
    signal = np.clip(alpha_bar, 1 / _MOST, 1 - 1 / _MOST)
    own = from_epsilon(np.ones_like(signal), signal, prediction_type)
    return np.asarray(snr(signal) / own)
