"""Timesteps in bins of the noise level, for what is learned of their losses."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from stepsearch.strategies.base import FloatArray, snr

_MOST = 1e8
"""SNR is kept in 1e-8..1e8: ln sigma of a process that ends at SNR 0 stays finite."""


def log_sigma(alpha_bar: FloatArray) -> FloatArray:
    """ln sigma of EDM, sigma = SNR^(-1/2)."""
    return np.asarray(-np.log(np.clip(snr(alpha_bar), 1 / _MOST, _MOST)) / 2)


def equal_bins(values: FloatArray, count: int) -> npt.NDArray[np.int64]:
    """The bin of each value, of `count` equally wide ones; some may be empty."""
    edges = np.linspace(values.min(), values.max(), count + 1)
    return np.asarray(np.searchsorted(edges[1:-1], values, side="right"), dtype=np.int64)
