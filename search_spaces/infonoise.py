"""Search the gate of InfoNoise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from search_spaces.base import FixedPoint, Range, Suggest, bounds
from search_spaces.learned import LearnedSpace


class InfoNoiseSpace(LearnedSpace):
    """The level c of InfoNoise's gate (arXiv 2602.18647), and its share of the draws."""

    kind: Literal["infonoise"] = "infonoise"
    gate: Annotated[Range, bounds(1e-4, 100)] = (0.03, 1.0)
    """In units of EDM's sigma; drawn on a log scale."""
    over_weight: bool = True
    """Divide by the loss's weight, as the paper does and one of its codes does not."""

    def parameters(self, trial: Suggest) -> dict[str, Any]:
        gate = trial.suggest_float("gate", *self.gate, log=True)
        return {"kind": "infonoise", "gate": gate, "over_weight": self.over_weight}

    def papers(self) -> list[FixedPoint]:
        return [FixedPoint("InfoNoise (CIFAR-10)", {"share": 1.0, "gate": 0.15})]

    def ranges(self) -> Mapping[str, Range]:
        return {"gate": self.gate}
