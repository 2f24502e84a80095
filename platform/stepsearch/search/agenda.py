"""The agenda: which trial comes next, from the first fixed point to the last repeat."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from stepsearch.search.config import SearchConfig
from stepsearch.search.leaderboard import BASELINE, PAPER, REPEAT, Leaderboard, Row
from stepsearch.study import Proposal, StoredStudy, Study, TrialRecord


class Agenda:
    """Hands out the trials of a search, one at a time.

    First the trials that an interruption left unfinished, then the fixed points (the uniform
    baseline and the papers' settings), then Optuna's proposals, and when all of these are done the
    finalists and the baseline again, on further seeds.
    """

    def __init__(
        self, config: SearchConfig, study: Study, standings: Callable[[], Leaderboard]
    ) -> None:
        self._config, self._study, self._standings = config, study, standings
        self._facts = config.trainer.facts()
        self._unfinished = study.unfinished()
        self._finalists: list[Row] | None = None
        self.exhausted = False

    @property
    def total(self) -> int:
        """Trials in all, the repeats of finalists included that nobody knows yet."""
        return self._config.budget.trials + self._config.finalists.repeats

    def enqueue_fixed_points(self) -> None:
        """Queue what a new search begins with: the baseline first, then the papers' settings."""
        for i, point in enumerate(self._config.space.fixed(self._facts)):
            role = PAPER if i else BASELINE
            self._study.enqueue(point.params, label=point.label, role=role)

    def warm_start(self, other: StoredStudy) -> int:
        """Let Optuna learn from an earlier search's finished trials; returns of how many.

        Those that are no points of this search's space are left out. Raises UserError if its
        objectives are others.
        """
        return self._study.warm_start(other, self._suggest)

    @property
    def complete(self) -> bool:
        """Nothing runs and nothing is left to be tried."""
        records = self._study.trials()
        return (
            all(record.outcome is not None for record in records)
            and len(_originals(records)) >= self._config.budget.trials
            and self._missing_repeat(records) is None
        )

    def next(self) -> Proposal | None:
        """The next trial; None when there is none now, for ever if `exhausted`."""
        if self._unfinished:
            return self._unfinished.pop(0)
        records = self._study.trials()
        originals = _originals(records)
        if len(originals) < self._config.budget.trials:
            proposal = self._study.ask(self._suggest)
            if proposal is not None:
                return proposal
        if any(record.outcome is None for record in originals):
            return None
        missing = self._missing_repeat(records)
        self.exhausted = missing is None
        return self._repeat(*missing) if missing else None

    def _suggest(self, trial: Any) -> dict[str, Any]:
        overrides: dict[str, Any] = self._config.space.suggest(trial, self._facts)
        return overrides

    def _missing_repeat(self, records: list[TrialRecord]) -> tuple[Row, int] | None:
        """The next finalist and the seed on which it has not been trained."""
        if self._finalists is None:
            self._finalists = self._choose_finalists()
        done = {(r.attrs.get("repeats"), r.attrs.get("seed")) for r in records}
        for seed in range(1, self._config.finalists.seeds):
            for row in self._finalists:
                if (row.number, seed) not in done:
                    return row, seed
        return None

    def _repeat(self, row: Row, seed: int) -> Proposal | None:
        label = f"{row.label}, seed {seed}"
        self._study.enqueue(row.params, label=label, role=REPEAT, repeats=row.number, seed=seed)
        return self._study.ask(self._suggest)

    def _choose_finalists(self) -> list[Row]:
        """The baseline and the best trials; nobody if there is nothing to compare."""
        standings, wanted = self._standings(), self._config.finalists.count
        sign = 1 if standings.primary.direction == "minimize" else -1
        # By the first seed alone: a resumed search, with some repeats done, chooses the same.
        best = sorted(standings.candidates(), key=lambda row: sign * row.values[0])[:wanted]
        baseline = standings.baseline
        if not best or baseline is None or not baseline.values:
            return []
        return [baseline, *best]


def _originals(records: list[TrialRecord]) -> list[TrialRecord]:
    return [record for record in records if record.attrs.get("role") != REPEAT]
