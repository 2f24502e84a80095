"""Search when to change over: a strategy first, then uniform; or DeCL's stages."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

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


def _clusters(value: tuple[int, int]) -> tuple[int, int]:
    if not 2 <= value[0] < value[1] <= 100:
        raise ValueError(f"clusters must be a range low < high inside 2..100, got {value}")
    return value


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

    def check(self, facts: TrainerFacts) -> None:
        super().check(facts)
        self.first.check(facts)


class DeclSpace(SearchSpace):
    """DeCL's number of clusters and how long until all of them train; 0 images is uniform."""

    kind: Literal["decl"] = "decl"
    clusters: Annotated[tuple[int, int], AfterValidator(_clusters)] = (2, 40)
    images: int = Field(ge=1)
    """The latest time for the last cluster to join, in images seen."""

    def suggest(self, trial: Suggest, facts: TrainerFacts) -> dict[str, Any]:
        clusters = trial.suggest_int("clusters", *self.clusters, log=True)
        images = trial.suggest_int("images", 0, self.images)
        if images == 0:
            return {"strategy": {"kind": "uniform"}}
        return {"strategy": {"kind": "decl", "clusters": clusters, "images": images}}

    def fixed(self, facts: TrainerFacts) -> list[FixedPoint]:
        low, high = self.clusters
        usual = min(max(20, low), high)
        points = [FixedPoint("uniform", {"clusters": usual, "images": 0})]
        if low <= 20 <= high:
            label = f"DeCL (20 clusters, {self.images:,} images)"
            points.append(FixedPoint(label, {"clusters": 20, "images": self.images}))
        return points
