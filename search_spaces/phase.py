"""Search when to change over: a strategy first, then uniform."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from search_spaces.base import FixedPoint, SearchSpace, Suggest
from search_spaces.compose import ComposeSpace
from search_spaces.families import FamiliesSpace
from search_spaces.family import FamilySpace
from search_spaces.min_snr import MinSnrSpace
from search_spaces.p2 import P2Space
from search_spaces.speed import SpeedSpace
from stepsearch.search.trial import TrainerFacts

First = Annotated[
    SpeedSpace | P2Space | MinSnrSpace | FamilySpace | FamiliesSpace | ComposeSpace,
    Field(discriminator="kind"),
]


class PhaseSpace(SearchSpace):
    """A strategy of the space `first` for 0..`images` images, then uniform until the end.

    No images at all is the uniform baseline. With `first: {kind: logit_normal}` that is Curriculum
    Sampling; with `first: {kind: speed}` SpeeD's early lead without its late cost.
    """

    kind: Literal["phase"] = "phase"
    first: First = SpeedSpace()
    images: int = Field(ge=1)
    """The latest change-over, in images seen."""

    def suggest(self, trial: Suggest, facts: TrainerFacts) -> dict[str, Any]:
        first = self.first.suggest(trial, facts)["strategy"]
        images = trial.suggest_int("images", 0, self.images)
        if images == 0 or first["kind"] == "uniform":
            return {"strategy": {"kind": "uniform"}}
        phases = [{"strategy": first, "images": images}, {"strategy": {"kind": "uniform"}}]
        return {"strategy": {"kind": "phase", "phases": phases}}

    def fixed(self, facts: TrainerFacts) -> list[FixedPoint]:
        baseline, *papers = self.first.fixed(facts)
        points = [FixedPoint("uniform", {**baseline.params, "images": 0})]
        for point in papers:
            label = f"{point.label} for {self.images:,} images"
            points.append(FixedPoint(label, {**point.params, "images": self.images}))
        return points

    def carried(
        self, params: Mapping[str, Any], here: TrainerFacts, there: TrainerFacts
    ) -> dict[str, Any]:
        return self.first.carried(params, here, there)

    def check(self, facts: TrainerFacts) -> None:
        super().check(facts)
        self.first.check(facts)
