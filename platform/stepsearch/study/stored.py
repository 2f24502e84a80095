"""A study as it lies in its storage: everything that can be asked of it without changing it."""

from __future__ import annotations

import math
from pathlib import Path
from types import TracebackType
from typing import Self

import optuna
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from stepsearch.errors import UserError
from stepsearch.study import analysis
from stepsearch.study.in_memory import in_memory
from stepsearch.study.records import (
    FINISHED,
    PASSED_OVER,
    PROPOSED,
    Proposal,
    TrialRecord,
    proposal,
    record,
)
from stepsearch.study.settings import StudySettings
from stepsearch.study.storage import connect, disconnect, readable
from stepsearch.study.warm_start import WARM_START


class StoredStudy:
    """A study to be read, while its search runs or after it."""

    def __init__(self, storage: BaseStorage, name: str) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.name = name
        self._storage = storage
        self._study = optuna.load_study(study_name=name, storage=storage)
        self.settings = StudySettings.load(self._study.user_attrs, name)

    @classmethod
    def open(cls, storage: str | Path, name: str) -> Self:
        """The study `name` in a sqlite file (a path) or a database (a URL)."""
        with readable(name), connect(storage, new=False) as database:
            return cls._find(database, name)

    @classmethod
    def look(cls, file: Path, name: str) -> Self:
        """The study `name` in a sqlite file as it is now; much faster than `open`."""
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        with readable(name):
            copy = in_memory(file)
            return cls.open(file, name) if copy is None else cls._find(copy, name)

    @classmethod
    def _find(cls, storage: BaseStorage, name: str) -> Self:
        names = [study.study_name for study in storage.get_all_studies()]
        if name not in names:
            known = ", ".join(map(repr, names)) or "none"
            raise UserError(f"study must be one of those stored ({known}), got {name!r}")
        return cls(storage, name)

    def close(self) -> None:
        """Close the storage's connections; the study is not to be used any more."""
        disconnect(self._storage)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def waiting(self) -> int:
        """How many fixed points are queued and not yet asked for."""
        return len(self._trials(TrialState.WAITING))

    def unfinished(self) -> list[Proposal]:
        """The trials that were asked for and not told, to be resumed under their numbers."""
        running = self._trials(TrialState.RUNNING)
        return [proposal(trial) for trial in running if PROPOSED in trial.user_attrs]

    def running(self) -> list[int]:
        """The numbers of the trials that were asked for and not told."""
        return [trial.number for trial in self._trials(TrialState.RUNNING)]

    def trials(self) -> list[TrialRecord]:
        """Every trial that was asked for, by number; some numbers may be missing."""
        with readable(self.name):
            asked = (t for t in self._trials() if t.state is not TrialState.WAITING)
            return [record(t) for t in asked if _is_own(t)]

    def warm_started(self) -> list[TrialRecord]:
        """The copies of other studies' trials that the sampler learns from."""
        return [record(trial) for trial in self._trials() if _is_copy(trial)]

    def best(self, feasible_only: bool = True) -> TrialRecord | None:
        """The finished trial with the best value of the only objective."""
        if self.settings.several:
            raise UserError(f"best must have one objective, got {len(self.settings.objectives)}")
        sign = 1 if self.settings.directions == ["minimize"] else -1
        records = [record(trial) for trial in self._finished()]
        own = [r for r in records if r.feasible or not feasible_only]
        return min(own, key=lambda r: sign * r.values[0] if r.values else math.inf, default=None)

    def pareto(self) -> list[TrialRecord]:
        """The feasible finished trials that no other one beats in every objective."""
        return [record(t) for t in analysis.pareto(self._finished(), self.settings.directions)]

    def importance(self, where: tuple[str, str] | None = None) -> dict[str, float]:
        """Each parameter's importance over the finished trials; see `analysis.importance`.

        `where` looks at trials with one value of a parameter only, by its name as it is printed.
        """
        trials = self._finished()
        if where is not None:
            name, value = where
            trials = [t for t in trials if str(t.params.get(name)) == value]
        found = analysis.importance(trials, self.settings.directions)
        if where is None:
            return found
        inside = {key: share for key, share in found.items() if key != where[0]}
        total = sum(inside.values()) or 1.0
        return {key: share / total for key, share in inside.items()}

    def _trials(self, *states: TrialState) -> list[FrozenTrial]:
        return self._study.get_trials(deepcopy=False, states=states or None)

    def _trial(self, number: int) -> FrozenTrial:
        find = self._storage.get_trial_id_from_study_id_trial_number
        try:  # to read all the others for it would take longer with each trial
            return self._storage.get_trial(find(self._study._study_id, number))
        except KeyError:
            last = len(self._trials()) - 1
            raise UserError(f"trial must be in 0..{last}, got {number}") from None

    def _cut_short(self) -> int | None:
        """The storage's id of the trial whose ask a kill has cut short; one at most."""
        running = self._trials(TrialState.RUNNING)
        return next((t._trial_id for t in running if PROPOSED not in t.user_attrs), None)

    def _finished(self) -> list[FrozenTrial]:
        """This search's own trials that reached their budget."""
        return [
            trial
            for trial in self._trials(TrialState.COMPLETE)
            if record(trial).outcome == FINISHED and _is_own(trial)
        ]


def _is_own(trial: FrozenTrial) -> bool:
    return PASSED_OVER not in trial.user_attrs and not _is_copy(trial)


def _is_copy(trial: FrozenTrial) -> bool:
    return trial.user_attrs.get("role") == WARM_START
