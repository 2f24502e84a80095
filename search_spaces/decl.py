"""Search the curriculum of DeCL."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from search_spaces.base import FixedPoint, Range, Suggest, bounds
from search_spaces.learned import LearnedSpace


class DeclSpace(LearnedSpace):
    """DeCL's number of clusters, how long a stage waits for a lower loss, its share of the draws.

    (arXiv 2403.10348.)
    """

    kind: Literal["decl"] = "decl"
    clusters: Annotated[tuple[int, int], bounds(2, 100)] = (2, 40)
    """Drawn on a log scale."""
    patience: Annotated[tuple[int, int], bounds(1, 100_000)] = (5, 200)
    """Steps; drawn on a log scale."""

    def parameters(self, trial: Suggest) -> dict[str, Any]:
        return {
            "kind": "decl",
            "clusters": trial.suggest_int("clusters", *self.clusters, log=True),
            "patience": trial.suggest_int("patience", *self.patience, log=True),
        }

    def papers(self) -> list[FixedPoint]:
        return [FixedPoint("DeCL", {"share": 1.0, "clusters": 20, "patience": 200})]

    def ranges(self) -> Mapping[str, Range]:
        return {"clusters": self.clusters, "patience": self.patience}
