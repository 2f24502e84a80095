"""What an earlier search gives to a new one: trials to learn from, or points to try again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from stepsearch.config import parse
from stepsearch.errors import UserError
from stepsearch.search.config import SearchConfig
from stepsearch.search.folder import SearchFolder
from stepsearch.search.leaderboard import BASELINE, EARLIER, REPEAT
from stepsearch.search.result import SearchResult
from stepsearch.search.trial import TrainerFacts
from stepsearch.study import TrialRecord
from stepsearch.study.spaces import Probe, run_fixed


@dataclass(frozen=True)
class Known:
    """A point of the new search's space that the earlier search has scored."""

    search: str
    trial: int
    """The earlier search and its number there."""
    params: Mapping[str, Any]
    value: float
    """Of the earlier search's primary objective, the mean over its seeds."""

    @property
    def label(self) -> str:
        return f"{self.search}/{self.trial}"

    @property
    def attrs(self) -> dict[str, Any]:
        """What the study keeps of it."""
        return {"source": self.label, EARLIER: self.value}


@dataclass(frozen=True)
class Earlier:
    """An earlier search, as far as it is of use to a new one.

    Where both measure alike Optuna is told its trials, else its best points are tried again.
    """

    name: str
    study: Path
    told: frozenset[int]
    """The numbers of the finished trials that Optuna is told."""
    points: tuple[Known, ...]
    """Best first, the fixed points of both searches among them."""

    def __str__(self) -> str:
        if self.told:
            return f"Optuna is told {len(self.told)} trials of {self.name}"
        return f"of {len(self.points)} points of {self.name} the best are tried again"

    @classmethod
    def of(cls, config: SearchConfig) -> Earlier | None:
        """What `warm_start` names; None if it names nothing.

        Raises UserError if there is no such search, or none of its trials is of use.
        """
        return _Reader(config, config.warm_start).read() if config.warm_start else None


class _Reader:
    """Sees the earlier search `name` with the eyes of the new one, whose `config` is resolved."""

    def __init__(self, config: SearchConfig, name: str) -> None:
        self._new, self._name = config, name
        self._folder = SearchFolder.find(config.storage, name)
        data = self._folder.read_config()
        trainer = _trainer(config, name, data.get("trainer"))
        here = data | {"trainer": trainer, "storage": config.storage}
        self._old = parse(SearchConfig, here, where=name)

    def read(self) -> Earlier:
        """The trials that the new search's space could have proposed."""
        self._check_direction()
        result = SearchResult.read(self._old)
        finished = [record for record in result.records if record.outcome == "finished"]
        points = {record.number: self._point(record) for record in finished}
        fit = {number: point for number, point in points.items() if point is not None}
        roles = {r.attrs.get("role") for r in finished if r.number in fit}
        if roles <= {BASELINE, REPEAT}:
            raise UserError(
                f"warm_start must be a search with finished trials, besides its baseline, that "
                f"are points of space {self._new.space.kind}, got {self._name!r} of space "
                f"{_kind(self._old.space)}: none of {len(finished)} finished ones is"
            )
        if self._measures_alike:
            return Earlier(self._name, result.folder.study, frozenset(fit), ())
        known = [
            Known(self._name, row.number, fit[row.number], row.value)
            for row in result.leaderboard.rows
            if row.number in fit and row.within_guards and row.value is not None
        ]
        return Earlier(self._name, result.folder.study, frozenset(), tuple(known))

    @property
    def _measures_alike(self) -> bool:
        """Whether the same point would have had the same scores there."""
        settings = [(c.trainer, c.budget.images, c.objectives, c.guards) for c in self._searches]
        _, there = self._facts
        return settings[0] == settings[1] and self._folder.has_data(there.fingerprint)

    @property
    def _searches(self) -> tuple[SearchConfig, SearchConfig]:
        """The earlier one and the new one."""
        return self._old, self._new

    def _check_direction(self) -> None:
        theirs, ours = self._old.primary, self._new.primary
        if theirs.direction != ours.direction:
            raise UserError(
                f"warm_start must be a search that {ours.direction}s its first objective, "
                f"got {self._name!r}, which {theirs.direction}s {theirs.name}"
            )

    @cached_property
    def _facts(self) -> tuple[TrainerFacts, TrainerFacts]:
        """Of the earlier search's trainer and of the new one's."""
        return self._old.trainer.facts(), self._new.trainer.facts()

    def _point(self, record: TrialRecord) -> Mapping[str, Any] | None:
        """A trial as a point of the new space; None if it is none or would mean another one."""
        space, (here, there) = self._new.space, self._facts
        point: Mapping[str, Any]
        try:
            if not self._means_the_same(record):
                return None
            if record.attrs.get("role") == BASELINE:  # whatever the parameters that do not matter
                point = space.fixed(there)[0].params
            else:
                point = space.carried(record.params, here, there)
            run_fixed(lambda trial: space.suggest(trial, there), point, self._name)
        except UserError:
            return None
        return point

    def _means_the_same(self, record: TrialRecord) -> bool:
        """Whether the new space, on the earlier process, makes of the parameters what it was."""
        space, (here, _) = self._new.space, self._facts
        probe = Probe(lambda name, _: record.params[name])
        try:
            proposed = space.suggest(probe, here)
        except (KeyError, TypeError, ValueError):  # other parameters, or other kinds of them
            return False
        same = self._old.trainer_for(proposed) == self._old.trainer_for(record.proposed)
        return same and probe.params == record.params


def _trainer(config: SearchConfig, name: str, data: Any) -> Any:
    """The earlier search's trainer. Raises UserError without one, or without its noise process.

    A default in the place of the process would carry every point to a wrong noise level.
    """
    if _kind(data) != config.trainer.kind:
        raise UserError(
            f"warm_start must be a search with trainer {config.trainer.kind}, "
            f"got {name!r} with {_kind(data)}"
        )
    if "noise" in type(config.trainer).model_fields and "noise" not in data:
        raise UserError(f"trainer.noise must be in the search.yaml of {name!r}, got nothing")
    return parse(type(config.trainer), data, where=f"{name}.trainer")


def _kind(data: Any) -> str:
    """Of a recorded space or trainer."""
    return str(data.get("kind")) if isinstance(data, Mapping) else "none"
