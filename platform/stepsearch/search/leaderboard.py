"""The leaderboard: the trials of a search in the order of their merit, repeats folded in."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from stepsearch.search.board import describe
from stepsearch.search.history import History, Metrics
from stepsearch.search.speed_up import SpeedUp, speed_up
from stepsearch.study import Objective, TrialRecord

if TYPE_CHECKING:
    import pandas as pd

BASELINE, PAPER, PROPOSAL, REPEAT = "baseline", "paper", "proposal", "repeat"
CARRIED = "carried"
"""A point of an earlier search that is tried again."""
PROTECTED = (BASELINE, PAPER, CARRIED, REPEAT)
"""The roles of trials that others are compared with: they are never stopped early."""
EARLIER = "earlier"
"""The attribute of a trial that says how its point scored in an earlier search."""


@dataclass(frozen=True)
class Row:
    """A trial with its repeats on further seeds."""

    number: int
    label: str
    role: str
    params: Mapping[str, Any]
    outcome: str
    reason: str | None
    images_seen: int
    values: tuple[float, ...]
    """The primary metric at the end, one a seed that finished."""
    metrics: Metrics
    """All metrics of the first seed's last report."""
    excess: Mapping[str, float]
    """How much worse than allowed each guarded metric is; at most 0 is within."""
    speed_up: SpeedUp | None
    earlier: float | None
    """How the point scored in the search that this one was warm-started from."""

    @property
    def value(self) -> float | None:
        """The mean over the seeds."""
        return statistics.fmean(self.values) if self.values else None

    @property
    def spread(self) -> float | None:
        """The standard deviation over the seeds, from two on."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None

    @property
    def within_guards(self) -> bool:
        return all(value <= 0 for value in self.excess.values())


@dataclass(frozen=True)
class Leaderboard:
    """All trials, best first. The first row wins if it `is_eligible`."""

    primary: Objective
    rows: tuple[Row, ...]

    @property
    def baseline(self) -> Row | None:
        return next((row for row in self.rows if row.role == BASELINE), None)

    @property
    def winner(self) -> Row | None:
        """The best finished trial within the guards; where some have repeats, one of those.

        The baseline's repeats alone decide nothing: a search may end before the others'. It can
        be the baseline itself. None before any trial has finished.
        """
        eligible = [row for row in self.rows if row.values and row.within_guards]
        rivals = [row for row in eligible if row.role != BASELINE] or eligible
        seeds = max((len(row.values) for row in rivals), default=0)
        return next((row for row in eligible if len(row.values) >= seeds), None)

    @property
    def shut_out(self) -> Row | None:
        """The best finished trial beyond a guard, if its value is better than the winner's."""
        beyond = next((row for row in self.rows if row.values and not row.within_guards), None)
        if beyond is None or self.winner is None:
            return None
        ahead = _signed(beyond, self.primary) < _signed(self.winner, self.primary)
        return beyond if ahead else None

    def candidates(self) -> list[Row]:
        """Finished trials within the guards, the baseline aside, best first."""
        return [r for r in self.rows if r.values and r.within_guards and r.role != BASELINE]

    def frame(self) -> pd.DataFrame:
        """One line a row, for CSV and Parquet."""
        import pandas as pd  # `status` needs no frame and not its half second

        return pd.DataFrame([_flat(rank, row) for rank, row in enumerate(self.rows, start=1)])


def leaderboard(
    records: Sequence[TrialRecord],
    history: History,
    primary: Objective,
    guards: Mapping[str, float],
) -> Leaderboard:
    """Rank the trials: finished ones within the guards first, then by the primary metric."""
    repeats: dict[int, list[TrialRecord]] = {}
    for record in records:
        if record.attrs.get("role") == REPEAT:
            repeats.setdefault(record.attrs["repeats"], []).append(record)
    originals = [r for r in records if r.attrs.get("role") != REPEAT]
    first = next((r for r in originals if r.attrs.get("role") == BASELINE), None)
    reference = [first, *repeats.get(first.number, [])] if first else []
    rows = [
        _row([r, *repeats.get(r.number, [])], reference, history, primary, guards)
        for r in originals
    ]
    return Leaderboard(primary, tuple(sorted(rows, key=lambda row: _merit(row, primary))))


def guard_excess(
    metrics: Metrics, baseline: Metrics, guards: Mapping[str, float]
) -> dict[str, float]:
    """By how much each guarded metric exceeds what the baseline's value allows."""
    return {
        name: metrics[name] - baseline[name] - tolerance
        for name, tolerance in guards.items()
        if name in metrics and name in baseline
    }


def last_excess(
    history: History, number: int, baseline: int, guards: Mapping[str, float]
) -> dict[str, float]:
    """`guard_excess` of a trial's last report, beside the baseline's at the same images_seen.

    A trial that was stopped early is not compared with a baseline that was trained on; where the
    baseline has not come as far, no guard binds.
    """
    reports = history.reports(number)
    last = max(reports, default=0)
    beside = next((m for at, m in history.reports(baseline).items() if at >= last), {})
    return guard_excess(reports.get(last, {}), beside, guards)


def _row(
    seeds: Sequence[TrialRecord],
    baseline: Sequence[TrialRecord],
    history: History,
    primary: Objective,
    guards: Mapping[str, float],
) -> Row:
    """One row of a trial and its repeats, the first seed first."""
    record = seeds[0]
    minimize = primary.direction == "minimize"
    finished = [r for r in seeds if r.outcome == "finished"]
    whole = [r for r in baseline if r.outcome == "finished"]
    excess = last_excess(history, record.number, whole[0].number, guards) if whole else {}
    compared = None
    if record.attrs.get("role") != BASELINE and finished:
        pairs = _paired(whole, finished)
        compared = speed_up(
            [history.curve(a.number, primary.name) for a, _ in pairs],
            [history.curve(b.number, primary.name) for _, b in pairs],
            minimize=minimize,
        )
    return Row(
        number=record.number,
        label=record.attrs.get("label") or describe(record.params),
        role=record.attrs.get("role", PROPOSAL),
        params=record.params,
        outcome=record.outcome or "running",
        reason=record.reason,
        images_seen=max(history.curve(record.number, primary.name), default=0),
        values=tuple(history.last(r.number)[primary.name] for r in finished),
        metrics=history.last(record.number),
        excess=excess,
        speed_up=compared,
        earlier=record.attrs.get(EARLIER),
    )


def _paired(
    baseline: Sequence[TrialRecord], trial: Sequence[TrialRecord]
) -> list[tuple[TrialRecord, TrialRecord]]:
    """The trials of both that share a seed."""
    by_seed = {r.attrs.get("seed", 0): r for r in baseline}
    return [(by_seed[s], r) for r in trial if (s := r.attrs.get("seed", 0)) in by_seed]


def _merit(row: Row, primary: Objective) -> tuple[bool, bool, float, int]:
    return (not row.values, not row.within_guards, _signed(row, primary), row.number)


def _signed(row: Row, primary: Objective) -> float:
    """The value, or the last one of an unfinished trial; lower is better."""
    sign = 1 if primary.direction == "minimize" else -1
    last = row.metrics.get(primary.name, math.inf * sign)
    return sign * (row.value if row.value is not None else last)


def _flat(rank: int, row: Row) -> dict[str, Any]:
    return {
        "rank": rank,
        "trial": row.number,
        "label": row.label,
        "role": row.role,
        "outcome": row.outcome,
        "reason": row.reason or "",
        "seeds": len(row.values),
        "value": row.value,
        "spread": row.spread,
        "within_guards": row.within_guards,
        "speed_up": row.speed_up.median if row.speed_up else None,
        "images_seen": row.images_seen,
        "earlier": row.earlier,
        **{f"param.{name}": value for name, value in row.params.items()},
        **{f"metric.{name}": value for name, value in row.metrics.items()},
    }
