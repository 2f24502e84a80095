"""Search EDM2's learned uncertainty."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from search_spaces.base import FixedPoint, Range, Suggest, bounds
from search_spaces.learned import LearnedSpace


class UncertaintySpace(LearnedSpace):
    """The learning rate of u, and how far the weight follows it: w = e^{-share u}."""

    kind: Literal["edm2_uncertainty"] = "edm2_uncertainty"
    lr: Annotated[Range, bounds(1e-6, 1)] = (1e-3, 1e-1)
    """Drawn on a log scale."""

    def of_share(self, share: float) -> dict[str, Any]:
        return {"strength": share}

    def parameters(self, trial: Suggest) -> dict[str, Any]:
        lr = trial.suggest_float("lr", *self.lr, log=True)
        return {"kind": "edm2_uncertainty", "lr": lr}

    def papers(self) -> list[FixedPoint]:
        return [FixedPoint("EDM2 (full strength)", {"share": 1.0, "lr": 1e-2})]

    def ranges(self) -> Mapping[str, Range]:
        return {"lr": self.lr}
