"""Any density with any weight, and what else may be done to the two."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from pydantic import Field, field_validator, model_validator

from stepsearch.strategies.base import FloatArray, PredictionType
from stepsearch.strategies.densities import AnyDensity, UniformConfig
from stepsearch.strategies.levels import bin_time
from stepsearch.strategies.mirror import MirrorableConfig
from stepsearch.strategies.weights import AnyWeight


class ComposeConfig(MirrorableConfig):
    """The density of one family, the weight of another, and transforms of both.

    p is shifted, then mixed with the uniform density; w is raised to a power, then corrected for
    p, then normalised. stratify, lattice and antithetic say how the draws of one batch depend on
    each other and change no marginal; mirror does.
    """

    kind: Literal["compose"] = "compose"
    p: AnyDensity = UniformConfig()
    """The family that draws; its weight is not used."""
    w: AnyWeight = UniformConfig()
    """The family that weighs; its density is not used."""
    shift: float = Field(default=1.0, ge=0.01, le=100)
    """t/T -> shift t/T / (1 + (shift - 1) t/T): above 1 towards noise (Stable Diffusion 3)."""
    floor: float = Field(default=0.0, ge=0, le=1)
    """p -> (1 - floor) p + floor / T; 1 is uniform."""
    power: float = Field(default=1.0, ge=0, le=4)
    """w -> w^power, on the denoiser's own loss; 0 is no weighting."""
    importance_correct: bool = False
    """w -> w / (T p): the objective is that of uniform draws over the timesteps with p > 0.

    Those with p = 0 are not part of it; a `floor` above 0 leaves none out.
    """
    normalize: bool = False
    """w -> w / sum_t p_t w_t: the mean weight of a draw is 1, as it is for uniform."""
    lattice: bool = False
    """One uniform a batch, shifted by i / n (VDM), in the place of stratified ones."""
    antithetic: bool = False
    """Half of every batch at u, the other half at 1 - u, through the inverse CDF of p."""

    @field_validator("p", "w")
    @classmethod
    def _draws_are_composes(cls, part: Any, info: Any) -> Any:
        if not part.stratify:
            raise ValueError(
                f"{info.field_name}.stratify must be given as compose.stratify, got False"
            )
        return part

    @model_validator(mode="after")
    def _mirrored_draws_are_pairs_already(self) -> ComposeConfig:
        for name in ("antithetic", "importance_correct"):
            if self.mirror and getattr(self, name):
                raise ValueError(f"compose.{name} must be false when mirror is true, got True")
        return self

    def density(self, alpha_bar: FloatArray) -> FloatArray:
        T = len(alpha_bar)
        p = shifted(self.p.density(alpha_bar), self.shift)
        return (1 - self.floor) * p + self.floor / T

    def weight(self, alpha_bar: FloatArray, prediction_type: PredictionType) -> FloatArray:
        p = self.density(alpha_bar)
        w = self.w.weight(alpha_bar, prediction_type) ** self.power
        if self.importance_correct:
            w = np.divide(w, len(p) * p, out=np.zeros_like(w), where=p > 0)
        return w / (p @ w) if self.normalize else w

    def draws(self) -> dict[str, bool]:
        how = {"lattice": self.lattice, "antithetic": self.antithetic}
        return super().draws() | how


def shifted(p: FloatArray, shift: float) -> FloatArray:
    """p after t/T -> shift t/T / (1 + (shift - 1) t/T), a map of [0, 1] onto itself.

    The inverse map has 1 / shift; p is even inside each timestep.
    """
    if shift == 1:
        return p
    edges, cdf = np.linspace(0, 1, len(p) + 1), np.concatenate([[0], np.cumsum(p)])
    return bin_time(lambda u: np.interp(u / (shift + (1 - shift) * u), edges, cdf), len(p))
