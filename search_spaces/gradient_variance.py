"""Search the negative control: timesteps drawn by the variance of their gradients."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from search_spaces.base import FixedPoint, Range, Suggest, bounds
from search_spaces.learned import LearnedSpace


class GradientVarianceSpace(LearnedSpace):
    """How finely and how often the variance is estimated, and its share of the draws.

    (arXiv 2411.09998, Table 4, which does not tell its numbers.)
    """

    kind: Literal["gradient_variance"] = "gradient_variance"
    bins: Annotated[tuple[int, int], bounds(1, 1000)] = (5, 50)
    """Drawn on a log scale."""
    every: Annotated[tuple[int, int], bounds(1, 10_000)] = (5, 50)
    """Steps between two estimates, each of which costs about one more; drawn on a log scale."""

    def parameters(self, trial: Suggest) -> dict[str, Any]:
        return {
            "kind": "gradient_variance",
            "bins": trial.suggest_int("bins", *self.bins, log=True),
            "every": trial.suggest_int("every", *self.every, log=True),
        }

    def papers(self) -> list[FixedPoint]:
        return [FixedPoint("gradient variance", {"share": 0.95, "bins": 20, "every": 20})]

    def ranges(self) -> Mapping[str, Range]:
        return {"bins": self.bins, "every": self.every}
