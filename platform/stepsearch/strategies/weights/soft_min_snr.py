"""Soft-Min-SNR: Min-SNR without the kink (HDiT, Crowson et al. 2024; k-diffusion)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from stepsearch.strategies.base import FloatArray, snr
from stepsearch.strategies.parts import WeightConfig


class SoftMinSnrConfig(WeightConfig):
    """gamma SNR / (gamma + SNR) on the x0-loss, so gamma / (gamma + SNR) on the eps-loss.

    k-diffusion writes (sigma sd)^2 / (sigma^2 + sd^2)^2 on EDM's preconditioned loss, which is
    this with gamma = 1 / sd^2; with sd = 1 that loss is the v-loss and the weight abar (1 - abar).
    """

    kind: Literal["soft_min_snr"] = "soft_min_snr"
    gamma: float = Field(default=4.0, gt=0)
    """4 is sd = 0.5."""

    def on_epsilon(self, alpha_bar: FloatArray) -> FloatArray:
        return self.gamma / (self.gamma + snr(alpha_bar))
