"""Search the numbers of one family, from the uniform strategy to the family's own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from pydantic import Field, field_validator

from search_spaces.base import FixedPoint, Position, Range, SearchSpace, Suggest
from search_spaces.ranges import (
    FAMILIES,
    Number,
    Searched,
    as_strategy,
    check_ranges,
    positions,
    searched,
)
from stepsearch.search.trial import TrainerFacts
from stepsearch.strategies import DENSITIES

_FLOOR, _POWER = Number(0, 1), Number(0, 2)


class FamilySpace(SearchSpace):
    """A family whose members do not include the uniform strategy, and a way there.

    Of a density that is `floor`, the share of uniform draws mixed in: 1 is uniform, 0 the family.
    Of a weight it is `power`, its exponent: 0 is uniform, 1 the family.
    """

    kind: Literal[
        "step",
        "beta",
        "logit_normal",
        "mode",
        "edm_log_normal",
        "speed_log_normal",
        "laplace",
        "clts",
        "timestep_bias",
        "soft_min_snr",
        "debiased",
        "vlb",
        "edm",
        "cosmap",
        "sigma_sqrt",
        "change_aware",
    ]
    ranges: dict[str, Range] = Field(default={})
    """{number: [low, high]} in the place of the usual ranges."""

    @field_validator("ranges")
    @classmethod
    def _known(cls, ranges: dict[str, Range], info: Any) -> dict[str, Range]:
        if "kind" in info.data:
            check_ranges(ranges, _numbers(info.data["kind"]))
        way, uniform = _way(info.data.get("kind", ""))
        low, high = ranges.get(way, (uniform, uniform))
        if not low <= uniform <= high:
            raise ValueError(
                f"ranges must hold {way} = {uniform:g}, the uniform baseline, "
                f"got ({low:g}, {high:g})"
            )
        return ranges

    def suggest(self, trial: Suggest, facts: TrainerFacts) -> dict[str, Any]:
        numbers = FAMILIES[self.kind].suggest(trial, self.kind, self.ranges)
        name, uniform = _way(self.kind)
        _, number = _numbers(self.kind)[name]
        way = trial.suggest_float(name, *self.ranges.get(name, (number.low, number.high)))
        if way == uniform:
            return {"strategy": {"kind": "uniform"}}
        own = as_strategy(self.kind, numbers, facts)
        if way == 1 - uniform:
            return {"strategy": own}
        part = "p" if name == "floor" else "w"
        return {"strategy": {"kind": "compose", part: own, name: way}}

    def fixed(self, facts: TrainerFacts) -> list[FixedPoint]:
        name, uniform = _way(self.kind)
        points = FAMILIES[self.kind].points
        own = [FixedPoint(label, {**at, name: 1 - uniform}) for label, at in points.items()]
        ranges = {key: (n.low, n.high) for key, (_, n) in _numbers(self.kind).items()}
        ranges |= self.ranges
        usual = {key: float(np.clip(at, *ranges[key])) for key, at in own[0].params.items()}
        baseline = FixedPoint("uniform", {**usual, name: uniform})
        return [baseline, *(point for point in own if point.lies_in(ranges))]

    def positions(self) -> Mapping[str, Position]:
        return positions(self.kind, prefix=False)


def _way(kind: str) -> tuple[str, float]:
    """The number that leads to the uniform strategy, and its value there."""
    return ("floor", 1.0) if kind in DENSITIES else ("power", 0.0)


def _numbers(kind: str) -> Searched:
    name, _ = _way(kind)
    return searched(kind) | {name: ("compose", _FLOOR if name == "floor" else _POWER)}
