"""What a search space is: what may vary, which points are tried first, and whom it fits."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol

import numpy as np
from pydantic import AfterValidator, ValidationInfo

from stepsearch.config import Config
from stepsearch.errors import UserError
from stepsearch.search.trial import TrainerFacts
from stepsearch.strategies import FloatArray
from stepsearch.strategies.carry import carry_time
from stepsearch.strategies.levels import log_snr

Range = tuple[float, float]
Position = Literal["share", "logit"]
"""How a parameter says where in time something is: as t / T, or as its logit."""


class Suggest(Protocol):
    """The part of an Optuna trial that a space needs."""

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float: ...

    def suggest_int(
        self, name: str, low: int, high: int, *, step: int = 1, log: bool = False
    ) -> int: ...

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any: ...


@dataclass(frozen=True)
class FixedPoint:
    """A point of the space that is tried before the optuna_sampler's proposals."""

    label: str
    params: Mapping[str, Any]
    """A value for each parameter the space suggests: numbers, or names of choices."""

    def lies_in(self, ranges: Mapping[str, Range]) -> bool:
        """Whether the numbers that the point has lie in their ranges."""
        own = {name: ends for name, ends in ranges.items() if name in self.params}
        return all(low <= self.params[name] <= high for name, (low, high) in own.items())


class SearchSpace(Config):
    """A named set of changes to a trainer's configuration.

    The uniform baseline is a point of every space, so that each optuna_sampler learns from the
    trial that all others are compared with.
    """

    trainers: ClassVar[tuple[str, ...]] = ("denoising",)
    """The kinds of trainer whose configuration the space can change."""

    kind: str

    @abstractmethod
    def suggest(self, trial: Suggest, facts: TrainerFacts) -> dict[str, Any]:
        """What to lay over the trainer's configuration in this trial."""

    @abstractmethod
    def fixed(self, facts: TrainerFacts) -> list[FixedPoint]:
        """The uniform baseline, then those settings of the papers that lie in the space."""

    def positions(self) -> Mapping[str, Position]:
        """The parameters that are positions in time, and so stand for a noise level."""
        return {}

    def carried(
        self, params: Mapping[str, Any], here: TrainerFacts, there: TrainerFacts
    ) -> dict[str, Any]:
        """A point that was found on the process of `here`, as the one that means the same `there`.

        Positions in time go where the log-SNR is the same, all other parameters stay. It may lie
        outside of the ranges.
        """
        levels, to = log_snr(here.alpha_bar), log_snr(there.alpha_bar)
        if np.array_equal(levels, to):
            return dict(params)
        moved = {
            name: _moved(params[name], kind, levels, to)
            for name, kind in self.positions().items()
            if name in params
        }
        return {**params, **moved}

    def check(self, facts: TrainerFacts) -> None:
        """Raise UserError when the space does not fit the trainer."""
        if facts.kind not in self.trainers:
            known = " or ".join(self.trainers)
            raise UserError(
                f"space {self.kind!r} must be used with trainer {known}, got {facts.kind!r}"
            )


def _moved(value: float, kind: Position, levels: FloatArray, to: FloatArray) -> float:
    if kind == "share":
        return carry_time(value, levels, to)
    u = carry_time(1 / (1 + math.exp(-value)), levels, to)
    return math.log(u / (1 - u)) if 0 < u < 1 else math.copysign(math.inf, u - 0.5)


def bounds(
    low: float,
    high: float,
    *,
    baseline: float | None = None,
    called: str = "the uniform baseline",
) -> AfterValidator:
    """Validate a range inside low..high that holds `baseline`, where the trial is uniform, or what
    the baseline is `called` otherwise.

    A range without it is refused rather than widened: nothing is searched that the user did not
    write, and the baseline is never outside of what the optuna_sampler can propose. None: the
    trial is uniform by another parameter.
    """

    def check(value: Range, info: ValidationInfo) -> Range:
        first, last = value
        if not first < last:
            rule = "a range low < high"
        elif first < low or last > high:
            rule = f"a range inside {low:g}..{high:g}"
        elif baseline is not None and not first <= baseline <= last:
            rule = f"a range that holds {baseline:g}, {called}"
        else:
            return value
        field = f"{info.data['kind']}.{info.field_name}"
        raise ValueError(f"{field} must be {rule}, got ({first:g}, {last:g})")

    return AfterValidator(check)
