"""Search the product: any density with any weight."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from search_spaces.base import FixedPoint, Position, Range, SearchSpace, Suggest, bounds
from search_spaces.ranges import (
    FAMILIES,
    SEARCHED_DENSITIES,
    SEARCHED_WEIGHTS,
    as_strategy,
    check_ranges,
    positions,
    searched,
)
from stepsearch.search.trial import TrainerFacts


class ComposeSpace(SearchSpace):
    """A density `p` and a weight `w`, each with its numbers, and a share of uniform draws.

    Numbers are called family.number. The baseline, each paper's density and weight alone, and
    SpeeD come first.
    """

    kind: Literal["compose"] = "compose"
    p: tuple[str, ...] = Field(default=SEARCHED_DENSITIES, min_length=1)
    """Densities besides uniform."""
    w: tuple[str, ...] = Field(default=SEARCHED_WEIGHTS, min_length=1)
    """Weights besides uniform."""
    floor: Annotated[Range, bounds(0, 1, baseline=0)] = (0.0, 0.5)
    """Share of uniform draws mixed into a density."""
    ranges: dict[str, Range] = Field(default={})

    @field_validator("p", "w")
    @classmethod
    def _exist(cls, kinds: tuple[str, ...], info: Any) -> tuple[str, ...]:
        known = SEARCHED_DENSITIES if info.field_name == "p" else SEARCHED_WEIGHTS
        for kind in kinds:
            if kind not in known:
                raise ValueError(
                    f"{info.field_name} must be among {', '.join(known)}, got {kind!r}"
                )
        if len(set(kinds)) < len(kinds):
            raise ValueError(f"{info.field_name} must not repeat, got {', '.join(kinds)}")
        return kinds

    @field_validator("ranges")
    @classmethod
    def _known(cls, ranges: dict[str, Range], info: Any) -> dict[str, Range]:
        chosen = (*info.data.get("p", ()), *info.data.get("w", ()))
        check_ranges(
            ranges, {k: v for kind in chosen for k, v in searched(kind, f"{kind}.").items()}
        )
        return ranges

    def suggest(self, trial: Suggest, facts: TrainerFacts) -> dict[str, Any]:
        p, w = (
            self._part(trial, name, kinds, facts) for name, kinds in (("p", self.p), ("w", self.w))
        )
        if p["kind"] == w["kind"] == "uniform":
            return {"strategy": {"kind": "uniform"}}
        found: dict[str, Any] = {"kind": "compose", "p": p, "w": w}
        if p["kind"] != "uniform":
            found["floor"] = trial.suggest_float("floor", *self.floor)
        return {"strategy": found}

    def fixed(self, facts: TrainerFacts) -> list[FixedPoint]:
        points = [FixedPoint("uniform", {"p": "uniform", "w": "uniform"})]
        for part, other, kinds in (("p", "w", self.p), ("w", "p", self.w)):
            for kind in kinds:
                for label, at in FAMILIES[kind].points.items():
                    params = {part: kind, other: "uniform", **_named(kind, at)}
                    points.append(FixedPoint(label, params | _floor(params)))
        if "step" in self.p and "change_aware" in self.w:
            params = {"p": "step", "w": "change_aware", "step.tau": 0.7, "step.k": 5.0}
            speed = {**params, "change_aware.lam": 0.6, "floor": 0.0}
            points.append(FixedPoint("SpeeD (paper)", speed))
        return [point for point in points if point.lies_in(self.ranges)]

    def positions(self) -> Mapping[str, Position]:
        return positions(*self.p, *self.w)

    def _part(
        self, trial: Suggest, name: str, kinds: tuple[str, ...], facts: TrainerFacts
    ) -> dict[str, Any]:
        kind = trial.suggest_categorical(name, ("uniform", *kinds))
        if kind == "uniform":
            return {"kind": "uniform"}
        numbers = FAMILIES[kind].suggest(trial, kind, self.ranges, f"{kind}.")
        return as_strategy(kind, numbers, facts)


def _named(kind: str, at: Any) -> dict[str, Any]:
    return {f"{kind}.{name}": value for name, value in at.items()}


def _floor(params: dict[str, Any]) -> dict[str, float]:
    return {} if params["p"] == "uniform" else {"floor": 0.0}
