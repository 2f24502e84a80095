"""Search SpeeD's boundary tau, its sampling factor k and its weight ceiling lambda."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from search_spaces.base import FixedPoint, Position, Range, SearchSpace, Suggest, bounds
from stepsearch.search.trial import TrainerFacts
from stepsearch.strategies import SpeedConfig


class SpeedSpace(SearchSpace):
    """tau x k x lambda of SpeeD (arXiv 2405.17403).

    At the corner tau = T, k = 1, lambda = 0.5 nothing is left of SpeeD: p and w are constant.
    The space maps exactly this corner to the uniform strategy (for targets other than epsilon
    too, although SpeeD's converted weight is not constant there).
    """

    kind: Literal["speed"] = "speed"
    tau: Annotated[Range, bounds(0, 1, baseline=1)] = (0.4, 1.0)
    """tau / T."""
    k: Annotated[Range, bounds(1, 1000, baseline=1)] = (1.0, 10.0)
    """Drawn on a log scale."""
    lam: Annotated[Range, bounds(0.5, 1, baseline=0.5)] = (0.5, 0.8)
    mirror: bool = False
    convergence_weight: Literal["formula", "released"] = "formula"

    def suggest(self, trial: Suggest, facts: TrainerFacts) -> dict[str, Any]:
        tau = max(1, round(trial.suggest_float("tau", *self.tau) * facts.T))
        k = trial.suggest_float("k", *self.k, log=True)
        lam = trial.suggest_float("lam", *self.lam)
        if (tau, k, lam) == (facts.T, 1, 0.5):
            return {"strategy": {"kind": "uniform"}}
        return {"strategy": self._strategy(tau=tau, k=k, lam=lam)}

    def fixed(self, facts: TrainerFacts) -> list[FixedPoint]:
        points = [
            FixedPoint("uniform", {"tau": 1.0, "k": 1.0, "lam": 0.5}),
            FixedPoint("SpeeD (paper)", {"tau": 0.7, "k": 5.0, "lam": 0.6}),
        ]
        ranges = {"tau": self.tau, "k": self.k, "lam": self.lam}
        return [point for point in points if point.lies_in(ranges)]

    def positions(self) -> Mapping[str, Position]:
        return {"tau": "share"}

    def check(self, facts: TrainerFacts) -> None:
        super().check(facts)
        SpeedConfig(**self._strategy()).build(facts.alpha_bar, facts.prediction_type)

    def _strategy(self, **suggested: float) -> dict[str, Any]:
        return {
            "kind": "speed",
            **suggested,
            "mirror": self.mirror,
            "convergence_weight": self.convergence_weight,
        }
