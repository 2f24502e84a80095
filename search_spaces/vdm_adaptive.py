"""Search importance sampling by the mean loss of each noise level."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from search_spaces.base import FixedPoint, Range, Suggest, bounds
from search_spaces.learned import LearnedSpace


class VdmAdaptiveSpace(LearnedSpace):
    """VDM++'s number of bins and how long they remember, and its share of the draws.

    (arXiv 2303.00848.) A draw is corrected by 1 / (1 - share) at most.
    """

    kind: Literal["vdm_adaptive"] = "vdm_adaptive"
    bins: Annotated[tuple[int, int], bounds(2, 1000)] = (10, 200)
    """Drawn on a log scale."""
    decay: Annotated[Range, bounds(0, 0.9999)] = (0.9, 0.999)

    def parameters(self, trial: Suggest) -> dict[str, Any]:
        return {
            "kind": "vdm_adaptive",
            "bins": trial.suggest_int("bins", *self.bins, log=True),
            "decay": trial.suggest_float("decay", *self.decay),
        }

    def papers(self) -> list[FixedPoint]:
        return [FixedPoint("VDM++", {"share": 0.95, "bins": 100, "decay": 0.99})]

    def ranges(self) -> Mapping[str, Range]:
        return {"bins": self.bins, "decay": self.decay}
