"""Search over families: the family itself is a choice, its numbers depend on it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, field_validator

from search_spaces.base import FixedPoint, Position, Range, SearchSpace, Suggest
from search_spaces.ranges import FAMILIES, as_strategy, check_ranges, positions, searched
from stepsearch.search.trial import TrainerFacts


class FamiliesSpace(SearchSpace):
    """One of several families, or uniform; the baseline and all papers' points come first.

    Numbers are called family.number: `ranges: {laplace.mu: [-1, 1]}`. TPE with `group: true`
    follows the branches of such a space.
    """

    kind: Literal["families"] = "families"
    families: tuple[str, ...] = Field(default=tuple(FAMILIES), min_length=1)
    ranges: dict[str, Range] = Field(default={})

    @field_validator("families")
    @classmethod
    def _exist(cls, families: tuple[str, ...]) -> tuple[str, ...]:
        for family in families:
            if family not in FAMILIES:
                raise ValueError(f"families must be among {', '.join(FAMILIES)}, got {family!r}")
        if len(set(families)) < len(families):
            raise ValueError(f"families must not repeat, got {', '.join(families)}")
        return families

    @field_validator("ranges")
    @classmethod
    def _known(cls, ranges: dict[str, Range], info: Any) -> dict[str, Range]:
        chosen = info.data.get("families", ())
        check_ranges(
            ranges, {k: v for kind in chosen for k, v in searched(kind, f"{kind}.").items()}
        )
        return ranges

    def suggest(self, trial: Suggest, facts: TrainerFacts) -> dict[str, Any]:
        kind = trial.suggest_categorical("family", ("uniform", *self.families))
        if kind == "uniform":
            return {"strategy": {"kind": "uniform"}}
        numbers = FAMILIES[kind].suggest(trial, kind, self.ranges, f"{kind}.")
        return {"strategy": as_strategy(kind, numbers, facts)}

    def fixed(self, facts: TrainerFacts) -> list[FixedPoint]:
        points = [FixedPoint("uniform", {"family": "uniform"})]
        for kind in self.families:
            for label, at in FAMILIES[kind].points.items():
                numbers = {f"{kind}.{name}": value for name, value in at.items()}
                points.append(FixedPoint(label, {"family": kind, **numbers}))
        return [point for point in points if point.lies_in(self.ranges)]

    def positions(self) -> Mapping[str, Position]:
        return positions(*self.families)
