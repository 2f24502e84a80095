"""The loss weights of Stable Diffusion 3's training (Esser et al. 2024; diffusers)."""

from __future__ import annotations

from typing import Literal

import numpy as np

from stepsearch.strategies.base import FloatArray
from stepsearch.strategies.levels import edm_sigma, flow_sigma
from stepsearch.strategies.parts import WeightConfig


class CosmapConfig(WeightConfig):
    """2 / (pi (1 - 2 sigma + 2 sigma^2)) on the loss of a flow's velocity eps - x0.

    sigma is that of a rectified flow with the same SNR.
    """

    kind: Literal["cosmap"] = "cosmap"

    def on_epsilon(self, alpha_bar: FloatArray) -> FloatArray:
        return _from_flow(cosmap(flow_sigma(alpha_bar)), alpha_bar)


class SigmaSqrtConfig(WeightConfig):
    """sigma^(-2) on the loss of a flow's velocity: diffusers' `sigma_sqrt`."""

    kind: Literal["sigma_sqrt"] = "sigma_sqrt"

    def on_epsilon(self, alpha_bar: FloatArray) -> FloatArray:
        return _from_flow(flow_sigma(alpha_bar) ** -2, alpha_bar)


def cosmap(sigma: FloatArray) -> FloatArray:
    """On the loss of the velocity, at sigma in [0, 1]."""
    return np.asarray(2 / (np.pi * (1 - 2 * sigma + 2 * sigma**2)))


def _from_flow(w: FloatArray, alpha_bar: FloatArray) -> FloatArray:
    """||v - v^||^2 = (1 + SNR^(1/2))^2 ||x0 - x0^||^2, hence w_eps = w_flow (1 + sigma_edm)^2."""
    return np.asarray(w * (1 + edm_sigma(alpha_bar)) ** 2)
