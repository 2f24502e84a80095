"""Noise levels of a process, and densities over them binned onto its timesteps."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from stepsearch.strategies.base import FloatArray, snr

CDF = Callable[[FloatArray], FloatArray]


def log_snr(alpha_bar: FloatArray) -> FloatArray:
    """lambda_t = ln SNR_t, falling; -inf where no signal is left."""
    with np.errstate(divide="ignore"):
        return np.asarray(np.log(snr(alpha_bar)))


def edm_sigma(alpha_bar: FloatArray) -> FloatArray:
    """SNR^(-1/2), the noise level of EDM and of VE processes."""
    return np.asarray(snr(alpha_bar) ** -0.5)


def flow_sigma(alpha_bar: FloatArray) -> FloatArray:
    """sigma of x = (1 - sigma) x0 + sigma eps with the same SNR: 1 / (1 + SNR^(1/2))."""
    return np.asarray(1 / (1 + np.sqrt(snr(alpha_bar))))


def bin_log_snr(cdf: CDF, alpha_bar: FloatArray) -> FloatArray:
    """p of a density over log-SNR: its mass between midpoints; the ends take the tails."""
    levels = log_snr(alpha_bar)
    edges = np.concatenate([[np.inf], (levels[:-1] + levels[1:]) / 2, [-np.inf]])
    return -np.diff(cdf(edges))


def bin_time(cdf: CDF, T: int) -> FloatArray:
    """p of a density of u = t / T in [0, 1]: the mass that t = floor(T u) gathers."""
    return np.diff(cdf(np.linspace(0, 1, T + 1)))


# scipy is imported where it is called: reading a search file does without.


def normal_cdf(x: FloatArray, mean: float, std: float) -> FloatArray:
    """Of N(mean, std^2); takes infinities."""
    from scipy.special import ndtr

    return np.asarray(ndtr((x - mean) / std))


def beta_cdf(u: FloatArray, a: FloatArray | float, b: FloatArray | float) -> FloatArray:
    """Of Beta(a, b) at u in [0, 1]."""
    from scipy.special import betainc

    return np.asarray(betainc(a, b, u))


def logit(u: FloatArray) -> FloatArray:
    """ln(u / (1 - u)); infinite at 0 and 1."""
    from scipy.special import logit

    return np.asarray(logit(u))
