"""Carrying a strategy from one noise process to another: equal log-SNR is equal noise."""

from __future__ import annotations

import numpy as np

from stepsearch.strategies.base import FloatArray, PredictionType, x0_errors


def carry_density(p: FloatArray, log_snr: FloatArray, to: FloatArray) -> FloatArray:
    """p over the timesteps of a process with `log_snr`, as a density over those with `to`.

    Both fall. A timestep stands for the log-SNR around it, halfway to its neighbours, and p is
    spread evenly there. What lies beyond the ends of `to` goes to its first or last timestep.
    """
    edges, targets = _edges(log_snr), _edges(to)
    beyond = np.append(0.0, np.cumsum(p))  # the mass at higher log-SNR than each edge
    mass = np.interp(-targets[1:-1], -edges, beyond)
    carried: FloatArray = np.diff(mass, prepend=0.0, append=beyond[-1])
    return np.maximum(carried, 0)


def carry_weight(
    w: FloatArray,
    log_snr: FloatArray,
    to: FloatArray,
    *,
    prediction_type: PredictionType,
    target: PredictionType,
) -> FloatArray:
    """w on the loss of `prediction_type`, as a weight on that of `target` over the timesteps `to`.

    Interpolated in log-SNR, as at the nearest end beyond the ends, and converted so that the error
    of the image weighs the same. `target` may be epsilon only where `to` is finite.
    """
    across = np.interp(-_finite(to), -_finite(log_snr), w)
    alpha_bar = 1 / (1 + np.exp(-to))
    if prediction_type == target:
        return across
    return across * x0_errors(alpha_bar, prediction_type) / x0_errors(alpha_bar, target)


def carry_time(share: float, log_snr: FloatArray, to: FloatArray) -> float:
    """A position in time, as a share of T: where the process `to` is as noisy; also a share.

    0 and 1 are the ends on every process, and what lies beyond the ends of `to` is at its nearest.
    """
    if share in (0, 1):
        return share
    edges, targets = _edges(log_snr), _edges(to)
    level = np.interp(share, np.linspace(0, 1, len(edges)), edges)
    return float(np.interp(-level, -targets, np.linspace(0, 1, len(targets))))


def _edges(log_snr: FloatArray) -> FloatArray:
    """Between neighbours, and as far beyond the ends; [T + 1], falling."""
    levels = _finite(log_snr)
    middle = (levels[:-1] + levels[1:]) / 2
    edges: FloatArray = np.concatenate(
        ([2 * levels[0] - middle[0]], middle, [2 * levels[-1] - middle[-1]])
    )
    return edges


def _finite(log_snr: FloatArray) -> FloatArray:
    """A last timestep without signal counts as one as far beyond the last but one as that is from
    the one before.
    """
    if np.isfinite(log_snr[-1]):
        return log_snr
    return np.append(log_snr[:-1], 2 * log_snr[-2] - log_snr[-3])
