"""Search the parameters of importance sampling by the loss's second moment."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from search_spaces.base import FixedPoint, Range, Suggest, bounds
from search_spaces.learned import LearnedSpace


class LossSecondMomentSpace(LearnedSpace):
    """history of Improved DDPM's LossSecondMomentResampler, and its share of the draws.

    Draws with a share near 1 may be corrected by large weights: one of them by 1 / (1 - share).
    """

    kind: Literal["loss_second_moment"] = "loss_second_moment"
    history: Annotated[tuple[int, int], bounds(1, 1000)] = (5, 20)

    def parameters(self, trial: Suggest) -> dict[str, Any]:
        history = trial.suggest_int("history", *self.history)
        return {"kind": "loss_second_moment", "history": history}

    def papers(self) -> list[FixedPoint]:
        return [FixedPoint("LossSecondMoment (paper)", {"share": 0.999, "history": 10})]

    def ranges(self) -> Mapping[str, Range]:
        return {"history": self.history}
