"""Running a search space without a study: fixed points and grids."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from stepsearch.errors import UserError

MAX_GRID = 10_000

Scalar = bool | int | float | str | None


class Suggest(Protocol):
    """What a search space asks of a trial; Optuna's trials and `Probe` answer it."""

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float: ...

    def suggest_int(
        self, name: str, low: int, high: int, *, step: int = 1, log: bool = False
    ) -> int: ...

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any: ...


Space = Callable[[Suggest], Mapping[str, Any]]
"""Suggests parameters, branch by branch, and returns what the trial is to be run with."""


class Probe:
    """A trial without a study: `pick` chooses every value, from a name and a distribution."""

    def __init__(self, pick: Callable[[str, BaseDistribution], Any]) -> None:
        self._pick = pick
        self.params: dict[str, Any] = {}
        self.distributions: dict[str, BaseDistribution] = {}

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        return float(self._suggest(name, FloatDistribution(low, high, log=log, step=step)))

    def suggest_int(
        self, name: str, low: int, high: int, *, step: int = 1, log: bool = False
    ) -> int:
        return int(self._suggest(name, IntDistribution(low, high, log=log, step=step)))

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        return self._suggest(name, CategoricalDistribution(choices))

    def _suggest(self, name: str, distribution: BaseDistribution) -> Any:
        if name not in self.params:
            self.params[name] = self._pick(name, distribution)
            self.distributions[name] = distribution
        return self.params[name]


def run_fixed(
    space: Space, params: Mapping[str, Scalar], label: str
) -> tuple[Probe, Mapping[str, Any]]:
    """Run `space` at the fixed point `params`; returns the probe and what the space returned.

    Raises UserError when a value lies outside its range, or when the point and the space do not
    name the same parameters. A parameter that can take one value only may be left out.
    """

    def pick(name: str, distribution: BaseDistribution) -> Any:
        if name in params:
            return _inside(distribution, params[name], f"{label}: {name}")
        if distribution.single():
            return candidates(distribution, 1)[0]
        raise UserError(f"{label}: {name} must be {_rule(distribution)}, got nothing")

    probe = Probe(pick)
    values = space(probe)
    for name in params:
        if name not in probe.params:
            known = ", ".join(probe.params)
            raise UserError(f"{label}: parameters must be among {known}, got {name!r}")
    return probe, values


def _inside(distribution: BaseDistribution, value: Scalar, where: str) -> Any:
    try:
        internal = distribution.to_internal_repr(value)
        contained = distribution._contains(internal)
    except (ValueError, TypeError):  # not a number, or not one of the choices
        contained = False
    if not contained:
        raise UserError(f"{where} must be {_rule(distribution)}, got {value!r}")
    return distribution.to_external_repr(internal)


def _rule(distribution: BaseDistribution) -> str:
    if isinstance(distribution, CategoricalDistribution):
        return f"one of {', '.join(map(repr, distribution.choices))}"
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    step = "" if distribution.step in (None, 1) else f" in steps of {distribution.step}"
    return f"in {distribution.low}..{distribution.high}{step}"


def shuffled_grid(space: Space, points: int, seed: int) -> list[dict[str, Any]]:
    """The grid in a random order, so that a search which stops early has been all over it."""
    found = list(islice(grid(space, points), MAX_GRID + 1))
    if len(found) > MAX_GRID:
        raise UserError(f"points must give a grid of at most {MAX_GRID} points, got {points}")
    random.Random(seed).shuffle(found)
    return found


def grid(space: Space, points: int) -> Iterator[dict[str, Any]]:
    """Every point of the space's grid: `points` values a number, all categories.

    The space runs once a point, so each branch of a conditional space has a grid of its own: a
    parameter that a branch does not ask for multiplies nothing there.
    """
    pending: list[list[Scalar]] = [[]]  # the leading values of the points still to come
    while pending:
        yield _grid_point(space, points, pending.pop(), pending)


def _grid_point(
    space: Space, points: int, path: list[Scalar], pending: list[list[Scalar]]
) -> dict[str, Any]:
    def pick(name: str, distribution: BaseDistribution) -> Scalar:
        if len(probe.params) == len(path):
            first, *others = candidates(distribution, points)
            pending.extend([*path, other] for other in others)
            path.append(first)
        return path[len(probe.params)]

    probe = Probe(pick)
    space(probe)
    return probe.params


def candidates(distribution: BaseDistribution, points: int) -> list[Any]:
    """At most `points` values, evenly spread over a number's range; all of a category's."""
    if isinstance(distribution, CategoricalDistribution):
        return list(distribution.choices)
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    low, high, step = distribution.low, distribution.high, distribution.step
    spread = np.geomspace if distribution.log else np.linspace
    values: npt.NDArray[Any] = np.clip(spread(low, high, points), low, high)
    if step is not None:
        size = round((high - low) / step) + 1
        index = np.arange(size) if size <= points else np.round((values - low) / step)
        values = low + step * index
    return list(dict.fromkeys(distribution.to_external_repr(float(v)) for v in values))
