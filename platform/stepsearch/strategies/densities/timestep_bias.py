"""Timestep bias: a range of timesteps is drawn more often (diffusers' SDXL training script)."""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field, model_validator

from stepsearch.strategies.base import FloatArray
from stepsearch.strategies.parts import DensityConfig


class TimestepBiasConfig(DensityConfig):
    """Timesteps in [begin, end) T are drawn `multiplier` times as often as the others.

    The script's "later" is [1 - portion, 1), its "earlier" [0, portion).
    """

    kind: Literal["timestep_bias"] = "timestep_bias"
    multiplier: float = Field(default=2.0, gt=0, le=1e6)
    begin: float = Field(default=0.75, ge=0, le=1)
    end: float = Field(default=1.0, ge=0, le=1)

    @model_validator(mode="after")
    def _a_range(self) -> TimestepBiasConfig:
        if not self.begin < self.end:
            raise ValueError(
                f"timestep_bias.begin must be below end ({self.end:g}), got {self.begin:g}"
            )
        return self

    def density(self, alpha_bar: FloatArray) -> FloatArray:
        T = len(alpha_bar)
        p, biased = np.ones(T), slice(round(self.begin * T), round(self.end * T))
        p[biased] = self.multiplier
        return np.asarray(p / p.sum())
