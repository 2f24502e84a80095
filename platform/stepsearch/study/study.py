"""The study: what one driver process asks and tells about trials that run elsewhere."""

from __future__ import annotations

import json
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

import optuna
from optuna.exceptions import DuplicatedStudyError
from optuna.storages import BaseStorage
from optuna.trial import Trial, TrialState

from stepsearch.config import parse
from stepsearch.errors import StepsearchError, UserError
from stepsearch.study.records import (
    CURVE,
    ENDING,
    FIXED,
    PASSED_OVER,
    PROPOSED,
    Ending,
    Objective,
    Outcome,
    Proposal,
    callers,
    record,
    settle,
)
from stepsearch.study.samplers import GridConfig, OptunaSamplerConfig, RandomConfig
from stepsearch.study.settings import SETTINGS, StudySettings
from stepsearch.study.spaces import Space, run_fixed, shuffled_grid
from stepsearch.study.storage import connect
from stepsearch.study.stored import StoredStudy
from stepsearch.study.warm_start import transplant

_PATIENCE, _INSISTENCE = 20, 2
"""How often a proposal that was made before is drawn again; by the sampler, at most."""


@dataclass
class _Running:
    """A running trial that this process holds, and what it has reported."""

    trial: Trial
    curve: dict[int, float]


class Study(StoredStudy):
    """The search's record of truth for its trials, around Optuna's ask and tell.

    One process asks, reports and tells. Each call is in the storage before it returns, and `open`
    goes on where a killed process was: a trial between ask and tell is `unfinished()` under its
    number, and an ask or a tell that was cut short is completed. A proposal depends on the seed,
    the trial's number and the trials before it alone, so an interrupted study proposes what an
    uninterrupted one would have.
    """

    def __init__(self, storage: BaseStorage, name: str) -> None:
        super().__init__(storage, name)
        self._running: dict[int, _Running] = {}
        self._proposed = {_text(record.proposed) for record in self.trials()}
        self._half_asked = self._cut_short()
        self._grid: list[dict[str, Any]] | None = None

    @classmethod
    def create(
        cls,
        storage: str | Path | None,
        name: str,
        objectives: Sequence[Objective],
        sampler: OptunaSamplerConfig,
        seed: int,
        *,
        constraints: Sequence[str] = (),
    ) -> Self:
        """A new study in a sqlite file (a path), in a database (a URL) or in memory (None).

        `constraints` names what `tell` will bring besides the objectives: a value above 0 makes a
        trial infeasible.
        """
        given = {"objectives": objectives, "constraints": constraints}
        settings = parse(StudySettings, {**given, "sampler": sampler, "seed": seed})
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        with connect(storage, new=True) as database:
            try:
                study = optuna.create_study(
                    storage=database, study_name=name, directions=settings.directions
                )
            except DuplicatedStudyError:
                rule = "study must have a new name (or be resumed)"
                raise UserError(f"{rule}, got {name!r}, which exists") from None
            study.set_user_attr(SETTINGS, settings.model_dump(mode="json"))
            return cls(database, name)

    @classmethod
    def open(cls, storage: str | Path, name: str) -> Self:
        """Go on with the study `name`; a tell that was cut short is completed."""
        study = super().open(storage, name)
        for trial in study._trials(TrialState.RUNNING):
            ending = Ending.of(trial)
            if ending is not None:
                study._end(study._held(trial.number).trial, ending)
        return study

    def enqueue(self, params: Mapping[str, Any], **attrs: Any) -> bool:
        """Queue a fixed point; False if it was queued before with the same attrs.

        `attrs` come back in the trial's Proposal and TrialRecord: label="uniform",
        role="baseline", seed=2.
        """
        fixed, told = _as_json(params, "params"), _as_json(attrs, "attrs")
        for trial in self._trials():
            if trial.user_attrs.get(FIXED) == fixed and callers(trial.user_attrs) == told:
                return False
        self._study.enqueue_trial(fixed, user_attrs={**told, FIXED: fixed})
        return True

    @property
    def half_asked(self) -> bool:
        """Whether a kill has cut an `ask` short, which the next one completes."""
        return self._half_asked is not None

    def ask(self, space: Space) -> Proposal | None:
        """The next trial: a queued fixed point, else the sampler's; None if the grid is exhausted.

        What was proposed before is passed over, up to 20 times: such a trial would repeat an
        earlier one to the last bit. A sampler that insists is replaced by chance. Raises UserError
        when a fixed point is not one of the space; its trial ends as an error.
        """
        drawn = self._draw(space, self.settings.sampler)
        for again in range(_PATIENCE):
            if drawn is None or not self._repeats(*drawn):
                break
            self._pass_over(drawn[0])
            sampler = self.settings.sampler if again < _INSISTENCE else RandomConfig()
            drawn = self._draw(space, sampler)
        return None if drawn is None else self._begun(*drawn)

    def report(self, number: int, step: int, value: float) -> None:
        """Note a value of a running trial at `step` (images_seen); the first one there stays."""
        running = self._held(number)
        if step in running.curve:
            return
        if self.settings.several:  # Optuna's trials report for one objective only
            curve = {**running.curve, step: float(value)}
            running.trial.set_user_attr(CURVE, {str(s): v for s, v in curve.items()})
        else:
            running.trial.report(value, step)
        running.curve[step] = float(value)

    def tell(
        self,
        number: int,
        outcome: Outcome,
        values: Sequence[float | None] | None = None,
        reason: str | None = None,
        constraints: Mapping[str, float | None] = MappingProxyType({}),
    ) -> None:
        """End a trial by the table `records.STATES`; told the same again, nothing happens.

        `values` has one number an objective. A finished trial that lacks one, or has one that is
        not finite, ends as diverged. With several objectives a pruned trial may say by how much it
        missed its budget: `constraints["finished"]` > 0, 1 if not given.
        """
        s = self.settings
        ending = settle(outcome, values, reason, constraints, s.objectives, s.constraints)
        frozen = self._trial(number)
        stored = Ending.of(frozen)
        if stored is not None and not stored.agrees(ending):
            was, now = (f"{e.outcome} with {e.values}" for e in (stored, ending))
            raise StepsearchError(f"trial {number} must end once, as {was}, got {now}")
        if frozen.state.is_finished():
            return
        trial = self._held(number).trial
        if stored is None:
            # Whole, before it is carried out in steps, so that `open` can complete them.
            trial.set_user_attr(ENDING, ending.as_json())
        self._end(trial, stored or ending)

    def warm_start(self, other: StoredStudy, space: Space, numbers: Container[int]) -> int:
        """Add those finished trials of `other` that are points of `space`; returns how many.

        `numbers` are the trials that may be added. The sampler learns from them; `trials` and what
        follows from it leave them out. They carry the attrs role="warm_start" and
        source="<study>/<number>", and are added once.
        """
        mine, theirs = self.settings.objectives, other.settings.objectives
        if mine != theirs:
            raise UserError(f"warm_start must have objectives {mine}, got {theirs}")
        known = {trial.user_attrs.get("source") for trial in self._trials()}
        finished = [trial for trial in other._finished() if trial.number in numbers]
        sources = {f"{other.name}/{trial.number}": trial for trial in finished}
        copies = [
            transplant(trial, source, space, self.settings)
            for source, trial in sources.items()
            if source not in known
        ]
        added = [copy for copy in copies if copy is not None]
        self._study.add_trials(added)
        return len(added)

    def _draw(
        self, space: Space, sampler: OptunaSamplerConfig
    ) -> tuple[Trial, dict[str, Any]] | None:
        """The next trial and what the space makes of it."""
        trial = self._next(space)
        if trial is None:
            return None
        self._half_asked = trial._trial_id
        self._check_fixed(trial, space)
        self._study.sampler = sampler.build(self.settings.seed, trial.number)
        return trial, _as_json(space(trial), "what the space returns")

    def _repeats(self, trial: Trial, values: dict[str, Any]) -> bool:
        return FIXED not in trial.user_attrs and _text(values) in self._proposed

    def _pass_over(self, trial: Trial) -> None:
        trial.set_user_attr(PASSED_OVER, True)
        self._study.tell(trial, state=TrialState.FAIL)
        self._half_asked = None

    def _begun(self, trial: Trial, values: dict[str, Any]) -> Proposal:
        trial.set_user_attr(PROPOSED, values)
        self._proposed.add(_text(values))
        self._running[trial.number] = _Running(trial, {})
        self._half_asked = None
        return Proposal(trial.number, trial.params, values, callers(trial.user_attrs))

    def _next(self, space: Space) -> Trial | None:
        if self._half_asked is not None:
            return Trial(self._study, self._half_asked)
        sampler = self.settings.sampler
        if isinstance(sampler, GridConfig) and not self.waiting():
            point = self._next_grid_point(space, sampler.points)
            if point is None:
                return None
            self._study.enqueue_trial(point, user_attrs={FIXED: point})
        return self._study.ask()

    def _next_grid_point(self, space: Space, points: int) -> dict[str, Any] | None:
        if self._grid is None:
            self._grid = shuffled_grid(space, points, self.settings.seed)
        taken = {frozenset(trial.params.items()) for trial in self._trials()}
        return next((p for p in self._grid if frozenset(p.items()) not in taken), None)

    def _check_fixed(self, trial: Trial, space: Space) -> None:
        """Optuna would only warn of a fixed value out of range, and draw what is missing."""
        fixed = trial.user_attrs.get(FIXED)
        if fixed is None:
            return
        label = trial.user_attrs.get("label", trial.number)
        try:
            run_fixed(space, fixed, f"fixed point {label!r}")
        except UserError as error:
            self.tell(trial.number, "error", reason=str(error))
            self._half_asked = None
            raise

    def _held(self, number: int) -> _Running:
        """The running trial; after `open` it is taken up from the storage."""
        if number not in self._running:
            frozen = self._trial(number)
            if frozen.state is not TrialState.RUNNING:
                state = frozen.state.name.lower()
                raise StepsearchError(f"trial {number} must be running, it is {state}")
            trial = Trial(self._study, frozen._trial_id)
            self._running[number] = _Running(trial, record(frozen).intermediate)
        return self._running[number]

    def _end(self, trial: Trial, ending: Ending) -> None:
        already = trial.constraints
        for name, value in ending.constraints.items():
            if name not in already:
                trial.set_constraint(name, value)
        state = ending.state(self.settings.several)
        self._study.tell(trial, ending.values if state is TrialState.COMPLETE else None, state)
        self._running.pop(trial.number, None)


def _text(values: Mapping[str, Any]) -> str:
    return json.dumps(values, sort_keys=True)


def _as_json(data: Mapping[str, Any], what: str) -> dict[str, Any]:
    """`data` as the storage will give it back."""
    try:
        copy: dict[str, Any] = json.loads(json.dumps(dict(data)))
    except (TypeError, ValueError) as error:
        raise UserError(f"{what} must be JSON, got {data!r}: {error}") from None
    return copy
