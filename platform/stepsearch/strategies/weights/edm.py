"""EDM's loss weight (Karras et al. 2022, table 1)."""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field

from stepsearch.strategies.base import FloatArray
from stepsearch.strategies.levels import edm_sigma
from stepsearch.strategies.parts import WeightConfig


class EdmWeightConfig(WeightConfig):
    """lambda(sigma) = (sigma^2 + sd^2) / (sigma sd)^2 on the x0-loss: EDM's own loss weighs 1.

    On the eps-loss that is 1 + sigma^2 / sd^2, which grows without bound towards pure noise; EDM
    itself hardly draws those steps.
    """

    kind: Literal["edm"] = "edm"
    sd: float = Field(default=0.5, ge=1e-3, le=1e3)
    """Standard deviation of the data, sigma_data; images in [-1, 1] have about 0.5."""

    def on_epsilon(self, alpha_bar: FloatArray) -> FloatArray:
        return np.asarray(1 + (edm_sigma(alpha_bar) / self.sd) ** 2)
