"""What a search has found, read from its folder; a running one can be looked at too."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from stepsearch.errors import UserError
from stepsearch.search.config import SearchConfig
from stepsearch.search.evaluating import Evaluating
from stepsearch.search.files import dump_yaml
from stepsearch.search.folder import SearchFolder
from stepsearch.search.groups import Groups, compare_groups
from stepsearch.search.history import History
from stepsearch.search.leaderboard import Leaderboard, Row, leaderboard
from stepsearch.search.ledger import Ledger
from stepsearch.search.ranks import Ranks, ranks
from stepsearch.search.rungs import FirstRung, first_rung
from stepsearch.search.speed_up import SpeedUp
from stepsearch.study import StoredStudy, TrialRecord
from stepsearch.tracking import count_waiting
from stepsearch.tracking.tags import provenance


@dataclass(frozen=True)
class SearchResult:
    """The leaderboard of a search, and the way to take a trial out of it."""

    config: SearchConfig
    folder: SearchFolder
    records: tuple[TrialRecord, ...]
    history: History
    ledger: Ledger
    """What it has spent."""
    interrupted: bool = False
    waiting: int = 0
    """Records that MLflow has not taken yet; the next resume delivers them."""
    lost: int = 0
    """Records that MLflow refused, or that did not fit on the disk either."""

    @classmethod
    def read(cls, config: SearchConfig, *, interrupted: bool = False) -> SearchResult:
        """Read the search that `config` describes. Raises UserError if there is none."""
        folder = SearchFolder.find(config.storage, config.name)
        with StoredStudy.look(folder.study, config.name) as study:
            records = tuple(study.trials())
        history, ledger = History(folder.history), Ledger.read(folder.spent)
        _check_agreement(records, history, config.primary.name)
        waiting = count_waiting(folder.spool)
        return cls(config, folder, records, history, ledger, interrupted, waiting)

    @cached_property
    def leaderboard(self) -> Leaderboard:
        """The trials, best first, repeats folded in."""
        config = self.config
        return leaderboard(self.records, self.history, config.primary, config.guards or {})

    @property
    def winner(self) -> Row | None:
        return self.leaderboard.winner

    @property
    def ranks(self) -> Ranks | None:
        """How well those of an earlier search hold here; None if none of its points is tried."""
        return ranks(self.leaderboard.rows)

    @cached_property
    def groups(self) -> Groups | None:
        """The values of `finalists.by` compared; None without it, or without enough seeds."""
        by = self.config.finalists.by
        return None if by is None else compare_groups(self.leaderboard, by)

    def importance(self, group: str) -> dict[str, float]:
        """Each parameter's share in the best tenth of a group's trials, the largest first; empty
        with fewer than ten."""
        by = self.config.finalists.by
        with StoredStudy.look(self.folder.study, self.config.name) as study:
            return study.importance(None if by is None else (by, group))

    @property
    def first_rung(self) -> FirstRung | None:
        """What the first report that may end a trial said of the finished ones; None if nothing
        can be said."""
        finished = [row.number for row in self.leaderboard.rows if row.values]
        curves = [self.history.curve(number, self.config.primary.name) for number in finished]
        return first_rung(self.config.trial_scheduler, self.config.budget, curves)

    @property
    def speed_up(self) -> SpeedUp | None:
        """The winner's over the baseline; None if there is no winner or it is the baseline."""
        return self.winner.speed_up if self.winner else None

    @property
    def evaluating(self) -> Evaluating | None:
        """What looking at the trials has cost; None where nothing was trained."""
        return Evaluating.of(self.history)

    def export(self, out: Path, trial: int | None = None, *, force: bool = False) -> Path:
        """Write the bundle of a trial (the winner if none is named) into the new folder `out`.

        Raises UserError if that trial has not finished, if `out` exists, or if the trainer does
        not let the trial out and `force` is not given.
        """
        row = self._finished(trial)
        self.folder.mirror.bring_trial(row.number, checkpoints=True)
        record = next(r for r in self.records if r.number == row.number)
        self.config.trainer_for(record.proposed).export(
            out,
            trial=self.folder.trial(row.number),
            budget=self.config.budget.images,
            recipe=dump_yaml(self.config),
            leaderboard=self.leaderboard.frame(),
            provenance=self._provenance(row),
            force=force,
        )
        return out

    def _provenance(self, row: Row) -> dict[str, Any]:
        """Where a bundle's trial comes from, and how it did against the baseline."""
        baseline, made_by = self.leaderboard.baseline, provenance()
        return {
            "search": self.config.name,
            "trial": row.number,
            "seed": self.config.seed,
            "images_seen": row.images_seen,
            "objective": self.config.primary.name,
            "direction": self.config.primary.direction,
            "metrics": row.metrics,
            "baseline": baseline.metrics if baseline else {},
            "values": row.values,
            "baseline_values": baseline.values if baseline else (),
            "speed_up": str(row.speed_up) if row.speed_up else None,
            "git_commit": made_by.get("mlflow.source.git.commit"),
            "versions": dict(v.split(" ", 1) for v in made_by["versions"].split(", ")),
        }

    def _finished(self, number: int | None) -> Row:
        finished = {row.number: row for row in self.leaderboard.rows if row.values}
        if not finished:
            raise UserError(f"export must have a finished trial: {self.config.name} has none yet")
        if number is None:
            return self.winner or next(iter(finished.values()))
        if number not in finished:
            known = ", ".join(map(str, sorted(finished)))
            raise UserError(f"trial must be one that has finished ({known}), got {number}")
        return finished[number]


def _check_agreement(records: tuple[TrialRecord, ...], history: History, metric: str) -> None:
    """The history is written before the study is told. Raises UserError if a report is missing."""
    for record in records:
        if record.outcome == "finished" and metric not in history.last(record.number):
            raise UserError(
                f"history.jsonl must hold {metric} of trial {record.number}, which has finished"
            )
