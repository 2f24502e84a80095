"""Sensible ranges and the papers' points of every family: what the table-driven spaces read."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from search_spaces.base import Position, Range, Suggest
from stepsearch.errors import UserError
from stepsearch.search.trial import TrainerFacts
from stepsearch.strategies import DENSITIES, WEIGHTS, strategy


@dataclass(frozen=True)
class Number:
    """A parameter that is searched in low..high; `tau` and its kind are shares of T."""

    low: float
    high: float
    log: bool = False
    position: Position | None = None
    """If it says where in time something is."""


@dataclass(frozen=True)
class Family:
    """What is searched of a strategy family, and which of its points are tried first."""

    numbers: Mapping[str, Number] = field(default_factory=dict)
    points: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """{label: a value for each number}; the first is the family's default."""

    def suggest(
        self, trial: Suggest, kind: str, ranges: Mapping[str, Range], prefix: str = ""
    ) -> dict[str, float]:
        """A value for each number, called `prefix` + its name."""
        found = {}
        for name, number in self.numbers.items():
            low, high = ranges.get(prefix + name, (number.low, number.high))
            found[name] = trial.suggest_float(prefix + name, low, high, log=number.log)
        return found


_TAU = Number(0.2, 1, position="share")
_K, _LAM = Number(1, 25, log=True), Number(0.5, 0.8)
FAMILIES: dict[str, Family] = {
    "speed": Family(
        {"tau": _TAU, "k": _K, "lam": _LAM}, {"SpeeD (paper)": {"tau": 0.7, "k": 5, "lam": 0.6}}
    ),
    "speed_released": Family(
        {"tau": _TAU, "k": _K, "lam": _LAM},
        {"SpeeD (released code)": {"tau": 0.7, "k": 5, "lam": 0.6}},
    ),
    "speed_v1": Family({}, {"SpeeD (older code)": {}}),
    "step": Family({"tau": _TAU, "k": _K}, {"SpeeD's density (paper)": {"tau": 0.7, "k": 5}}),
    "beta": Family({"a": Number(0.5, 1)}, {"B-TTDM": {"a": 0.8}}),
    "logit_normal": Family(
        {"mean": Number(-1, 1, position="logit"), "std": Number(0.5, 1.5)},
        {"logit-normal (SD3)": {"mean": 0, "std": 1}},
    ),
    "mode": Family({"scale": Number(-1, 1.75)}, {"mode (SD3)": {"scale": 1.29}}),
    "edm_log_normal": Family(
        {"mean": Number(-2, 1), "std": Number(0.5, 2)},
        {
            "log-normal (EDM)": {"mean": -1.2, "std": 1.2},
            "log-normal (EDM2, latents)": {"mean": -0.4, "std": 1},
            "log-normal (EDM2, 64 px)": {"mean": -0.8, "std": 1.6},
        },
    ),
    "speed_log_normal": Family({}, {"SpeeD's log-normal": {}}),
    "laplace": Family(
        {"mu": Number(-2, 2), "b": Number(0.25, 2, log=True)},
        {"Laplace (paper)": {"mu": 0, "b": 0.5}},
    ),
    "clts": Family(
        {
            "mean": Number(0.1, 0.9, position="share"),
            "std": Number(0.1, 0.5),
            "l": Number(0, 0.9),
        },
        {"CLTS (its end)": {"mean": 0.3, "std": 0.2, "l": 0.9}},
    ),
    "timestep_bias": Family(
        {"multiplier": Number(0.25, 4, log=True), "begin": Number(0, 0.9, position="share")},
        {"timestep bias (later)": {"multiplier": 2, "begin": 0.75}},
    ),
    "p2": Family(
        {"gamma": Number(0, 1.5)}, {"P2 (paper)": {"gamma": 1}, "P2 (paper, FFHQ)": {"gamma": 0.5}}
    ),
    "min_snr": Family({"gamma": Number(1, 20, log=True)}, {"Min-SNR (paper)": {"gamma": 5}}),
    "soft_min_snr": Family({"gamma": Number(1, 20, log=True)}, {"Soft-Min-SNR": {"gamma": 4}}),
    "debiased": Family({}, {"debiased (paper)": {}}),
    "vlb": Family({}, {"VLB": {}}),
    "edm": Family({"sd": Number(0.25, 2, log=True)}, {"EDM weight": {"sd": 0.5}}),
    "cosmap": Family({}, {"cosmap (SD3)": {}}),
    "sigma_sqrt": Family({}, {"sigma^-2 (SD3)": {}}),
    "change_aware": Family({"lam": _LAM}, {"SpeeD's weight (paper)": {"lam": 0.6}}),
}
SEARCHED_DENSITIES = tuple(kind for kind in FAMILIES if kind in DENSITIES)
SEARCHED_WEIGHTS = tuple(kind for kind in FAMILIES if kind in WEIGHTS)


def as_strategy(kind: str, numbers: Mapping[str, float], facts: TrainerFacts) -> dict[str, Any]:
    """The configuration of a strategy from a family's numbers."""
    values: dict[str, Any] = dict(numbers)
    if "tau" in values:
        values["tau"] = max(1, round(values["tau"] * facts.T))
    return {"kind": kind, **values}


Searched = Mapping[str, tuple[str, Number]]
"""{name in the space: the kind of strategy that has the number, the number}."""


def searched(kind: str, prefix: str = "") -> dict[str, tuple[str, Number]]:
    """The numbers of a family by their names in a space."""
    return {prefix + name: (kind, number) for name, number in FAMILIES[kind].numbers.items()}


def positions(*kinds: str, prefix: bool = True) -> dict[str, Position]:
    """The numbers of these families that are positions in time, called family.number."""
    return {
        f"{kind}.{name}" if prefix else name: number.position
        for kind in kinds
        if kind in FAMILIES
        for name, number in FAMILIES[kind].numbers.items()
        if number.position
    }


def check_ranges(
    ranges: Mapping[str, Range], numbers: Searched, others: Collection[str] = ()
) -> None:
    """Raise ValueError for a range of something else, one without room, one that does not fit.

    `others` may have ranges too, which are not looked at.
    """
    for name, (low, high) in ranges.items():
        if name in others:
            continue
        if name not in numbers:
            known = ", ".join((*numbers, *others)) or "nothing here"
            raise ValueError(f"ranges must name one of {known}, got {name!r}")
        kind, number = numbers[name]
        if not low < high:
            raise ValueError(f"ranges must have low < high, got {name}: ({low:g}, {high:g})")
        if number.log and low <= 0:
            raise ValueError(f"ranges must be above 0 on a log scale, got {name}: {low:g}")
        for end in (low, high):
            _check(kind, name.rpartition(".")[2], end)


def _check(kind: str, name: str, value: float) -> None:
    """Raise ValueError where a family does not take a value; `tau` is a share of T here."""
    if name == "tau":
        if not 0 <= value <= 1:
            raise ValueError(f"ranges must keep tau, a share of T, in 0..1, got {value:g}")
        return
    try:
        strategy(kind, **{name: value})
    except UserError as error:
        raise ValueError(f"ranges must fit the strategy: {error}") from None
