"""Search the strength of P2 weighting."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from search_spaces.base import FixedPoint, Range, SearchSpace, Suggest, bounds
from stepsearch.search.trial import TrainerFacts


class P2Space(SearchSpace):
    """gamma of P2 (Choi et al., CVPR 2022) with k = 1; gamma = 0 is the uniform strategy.

    That is so for targets other than epsilon too, although P2's converted weight is not constant
    there.
    """

    kind: Literal["p2"] = "p2"
    gamma: Annotated[Range, bounds(0, 10, baseline=0)] = (0.0, 1.5)

    def suggest(self, trial: Suggest, facts: TrainerFacts) -> dict[str, Any]:
        gamma = trial.suggest_float("gamma", *self.gamma)
        if gamma == 0:
            return {"strategy": {"kind": "uniform"}}
        return {"strategy": {"kind": "p2", "gamma": gamma}}

    def fixed(self, facts: TrainerFacts) -> list[FixedPoint]:
        points = [
            FixedPoint("uniform", {"gamma": 0.0}),
            FixedPoint("P2 (paper)", {"gamma": 1.0}),
            FixedPoint("P2 (paper, FFHQ)", {"gamma": 0.5}),
        ]
        return [point for point in points if point.lies_in({"gamma": self.gamma})]
