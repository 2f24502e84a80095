"""The weight of every timestep's error in the variational lower bound."""

from __future__ import annotations

import numpy as np

from stepsearch.strategies.base import FloatArray, PredictionType, from_epsilon


def vlb_coefficients(alpha_bar: FloatArray, prediction_type: PredictionType) -> FloatArray:
    """c_t = beta_t^2 / (2 sigma_t^2 alpha_t (1 - abar_t)) with sigma^2 = beta; Ho et al., eq. 12.

    For the mean squared error of the denoiser's own target; c is at most 1 on the eps-loss:
    with the cosine schedule c_999 would be 500, at SNR 0 infinite.
    """
    before = np.concatenate([[1.0], alpha_bar[:-1]])
    with np.errstate(divide="ignore"):
        c = (before - alpha_bar) / (2 * alpha_bar * (1 - alpha_bar))
    return from_epsilon(np.minimum(c, 1), alpha_bar, prediction_type)
