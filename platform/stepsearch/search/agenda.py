"""The agenda: which trial comes next, from the first fixed point to the last repeat."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from stepsearch.search.beginning import beginning
from stepsearch.search.config import SearchConfig
from stepsearch.search.leaderboard import (
    CARRIED,
    PAPER,
    PROPOSAL,
    REPEAT,
    Leaderboard,
    Row,
)
from stepsearch.search.warm_start import Earlier
from stepsearch.study import Proposal, StoredStudy, Study, TrialRecord


class Purse(Protocol):
    """Knows whether there is enough left; `spending.Spending` does."""

    def lacks(self, role: str | None, early: int, late: int) -> str | None:
        """Why a trial of this role and so many repeats do not fit; None: they do."""


class Agenda:
    """Hands out the trials of a search, one at a time.

    First the trials that an interruption left unfinished, or asked for by half, then the fixed
    points (the uniform baseline and the papers' settings) and those of an earlier search, then
    Optuna's proposals, and when all of these are done the finalists and the baseline again, on
    further seeds; the baseline's repeats fill lanes that would wait for the last of the others.
    Where there is a `purse`, a proposal must leave enough for all repeats, and the repeats of a
    seed are begun only if there is enough for all of that seed. It reads the study once and counts
    from then on, so that the ten-thousandth trial is found as fast as the first.
    """

    def __init__(
        self,
        config: SearchConfig,
        study: Study,
        standings: Callable[[], Leaderboard],
        purse: Purse | None = None,
    ) -> None:
        self._config, self._study, self._standings = config, study, standings
        self._purse, self._granted = purse, 0
        self._facts = config.trainer.facts()
        self._unfinished = study.unfinished()
        asked = _asked(study.trials(), self._unfinished)
        repeats = [r for r in asked if r.attrs.get("role") == REPEAT]
        self._repeats = {_repeated(r.attrs): r.number for r in repeats}
        self._originals = len(asked) - len(self._repeats)
        self._finalists: list[Row] | None = None
        self._fixed = len(config.space.fixed(self._facts))
        self.exhausted = False
        self.ended: str | None = None
        """Which budget has ended the search before all its trials were tried."""

    @property
    def total(self) -> int:
        """Trials in all, the repeats of finalists included that nobody knows yet."""
        return self._config.budget.trials + self._config.finalists.repeats

    def enqueue_fixed_points(self, earlier: Earlier | None = None) -> None:
        """Queue what a new search begins with, the baseline first; see `beginning`."""
        for point in beginning(self._config, earlier):
            attrs = {"label": point.label, "role": point.role, **point.attrs}
            self._study.enqueue(point.params, **attrs)

    def warm_start(self, earlier: Earlier) -> None:
        """Let Optuna learn from the trials that it is to be told."""
        if earlier.told:
            with StoredStudy.open(earlier.study, earlier.name) as other:
                self._study.warm_start(other, self._suggest, earlier.told)

    @property
    def complete(self) -> bool:
        """Nothing runs and nothing is left to be tried."""
        return (
            not self._study.running()
            and self._originals >= self._config.budget.trials
            and self._missing_repeat(self._chosen()) is None
        )

    def next(self) -> Proposal | None:
        """The next trial; None when there is none now, for ever if `exhausted`."""
        if self._unfinished:
            return self._unfinished.pop(0)
        if self._study.half_asked and (proposal := self._ask()):
            return proposal
        lacking = None
        if self._originals < self._config.budget.trials and self._finalists is None:
            lacking = self._lacks_for_original()
            if not lacking and (proposal := self._ask()):
                return proposal
        undecided = not set(self._study.running()) <= set(self._repeats.values())
        finalists = self._certain() if undecided else self._chosen()
        missing = self._missing_repeat(finalists)
        if missing and (short := self._lacks_for_seed(missing[1], finalists, undecided)):
            lacking, missing = lacking or short, None
        if not undecided:
            self.ended = self.ended or lacking
        self.exhausted = missing is None and not undecided
        return self._repeat(*missing) if missing else None

    def _ask(self) -> Proposal | None:
        """The study's next trial, whatever it was queued for: a kill may have left a repeat there,
        asked for by half or not at all."""
        proposal = self._study.ask(self._suggest)
        if proposal is None:
            return None
        if proposal.attrs.get("role") == REPEAT:
            self._repeats[_repeated(proposal.attrs)] = proposal.number
        else:
            self._originals += 1
        return proposal

    def _lacks_for_original(self) -> str | None:
        """A fixed point has to fit alone, a proposal with all the repeats that are to come."""
        if self._purse is None:
            return None
        if self._originals < self._fixed:
            return self._purse.lacks(PAPER, 0, 0)
        seeds = self._config.finalists.seeds - 1 if self._config.finalists.count else 0
        begun = {seed for _, seed in self._repeats}
        role = CARRIED if self._study.waiting() else PROPOSAL
        return self._purse.lacks(
            role, max(0, seeds - len(begun)), self._config.finalists.count * seeds
        )

    def _lacks_for_seed(self, seed: int, finalists: list[Row], undecided: bool) -> str | None:
        """A seed that only some finalists have compares nothing."""
        if self._purse is None or seed <= self._granted:
            return None
        missing = sum(
            (row.number, s) not in self._repeats for s in range(1, seed + 1) for row in finalists
        )
        unknown = self._config.finalists.count * seed if undecided else 0
        lacking = self._purse.lacks(None, missing, unknown)
        self._granted = self._granted if lacking else seed
        return lacking

    def _suggest(self, trial: Any) -> dict[str, Any]:
        overrides: dict[str, Any] = self._config.space.suggest(trial, self._facts)
        return overrides

    def _missing_repeat(self, finalists: list[Row]) -> tuple[Row, int] | None:
        """The next finalist and the seed on which it has not been trained."""
        for seed in range(1, self._config.finalists.seeds):
            for row in finalists:
                if (row.number, seed) not in self._repeats:
                    return row, seed
        return None

    def _repeat(self, row: Row, seed: int) -> Proposal | None:
        label = f"{row.label}, seed {seed}"
        self._study.enqueue(row.params, label=label, role=REPEAT, repeats=row.number, seed=seed)
        return self._ask()

    def _certain(self) -> list[Row]:
        """Who is a finalist however the running trials end: the baseline, once it has a rival."""
        if len(self._repeats) >= self._config.finalists.seeds - 1:
            return []  # its repeats are under way, and Ray Tune asks several times a second
        return self._finalists_by(self._standings())[:1]

    def _chosen(self) -> list[Row]:
        """The finalists, once all other trials have ended."""
        if self._finalists is None:
            self._finalists = self._finalists_by(self._standings())
        return self._finalists

    def _finalists_by(self, standings: Leaderboard) -> list[Row]:
        """The baseline and the best trials, or the best of the best groups; nobody if there is
        nothing to compare."""
        wanted = self._config.finalists.count
        sign = 1 if standings.primary.direction == "minimize" else -1
        # By the first seed alone: a resumed search, with some repeats done, chooses the same.
        ranked = sorted(standings.candidates(), key=lambda row: sign * row.values[0])
        best = self._one_a_group(ranked)[:wanted]
        baseline = standings.baseline
        if not best or baseline is None or not baseline.values:
            return []
        return [baseline, *best]

    def _one_a_group(self, ranked: list[Row]) -> list[Row]:
        """All of them, or the first one with each value of a parameter."""
        by = self._config.finalists.by
        if by is None:
            return ranked
        first: dict[Any, Row] = {}
        for row in ranked:
            first.setdefault(row.params.get(by), row)
        return list(first.values())


def _asked(records: list[TrialRecord], unfinished: list[Proposal]) -> list[TrialRecord]:
    """Without the trial whose ask was cut short by a kill: the study gives it out again."""
    known = {proposal.number for proposal in unfinished}
    return [r for r in records if r.outcome is not None or r.number in known]


def _repeated(attrs: Mapping[str, Any]) -> tuple[int, int]:
    """Which trial a repeat repeats, and on which seed."""
    return attrs["repeats"], attrs["seed"]
