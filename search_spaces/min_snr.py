"""Search the cap of Min-SNR weighting."""

from __future__ import annotations

import math
from typing import Any, Literal

from pydantic import Field

from search_spaces.base import FixedPoint, Range, SearchSpace, Suggest
from stepsearch.errors import UserError
from stepsearch.search.trial import TrainerFacts
from stepsearch.strategies.base import snr


class MinSnrSpace(SearchSpace):
    """gamma of Min-SNR (Hang et al., ICCV 2023), on a log scale.

    The range ends at the process's highest SNR, rounded up: from there on no step is capped,
    and the space maps the trial to the uniform strategy (for targets other than epsilon too,
    although Min-SNR's converted weight is not constant there).
    """

    kind: Literal["min_snr"] = "min_snr"
    gamma_low: float = Field(default=1.0, gt=0)
    """The smallest gamma."""

    def suggest(self, trial: Suggest, facts: TrainerFacts) -> dict[str, Any]:
        gamma = trial.suggest_float("gamma", *self._range(facts), log=True)
        if gamma >= snr(facts.alpha_bar).max():
            return {"strategy": {"kind": "uniform"}}
        return {"strategy": {"kind": "min_snr", "gamma": gamma}}

    def fixed(self, facts: TrainerFacts) -> list[FixedPoint]:
        low, high = self._range(facts)
        points = [
            FixedPoint("uniform", {"gamma": high}),
            FixedPoint("Min-SNR (paper)", {"gamma": 5.0}),
        ]
        return [point for point in points if point.lies_in({"gamma": (low, high)})]

    def check(self, facts: TrainerFacts) -> None:
        super().check(facts)
        low, high = self._range(facts)
        if low >= high:
            raise UserError(
                f"min_snr.gamma_low must be below {high:g} (the highest SNR), got {low:g}"
            )

    def _range(self, facts: TrainerFacts) -> Range:
        return self.gamma_low, float(math.ceil(snr(facts.alpha_bar).max()))
