"""The order of merit, with repeats and guards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from stepsearch.search.history import History
from stepsearch.search.leaderboard import Leaderboard, leaderboard
from stepsearch.study import Objective, TrialRecord

GUARDS = {"off_manifold": 0.02}


def record(number: int, outcome: str | None = "finished", **attrs: Any) -> TrialRecord:
    return TrialRecord(number, {"k": float(number)}, {}, attrs, outcome, None, None, {}, {})  # type: ignore[arg-type]


@pytest.fixture
def history(tmp_path: Path) -> History:
    """Trial: (fd, off_manifold) at 100 and 200 images."""
    history = History(tmp_path / "history.jsonl")
    ends = {
        0: (2.0, 0.10),
        1: (1.0, 0.30),
        2: (1.5, 0.11),
        3: (1.8, 0.05),
        4: (2.2, 0.1),
        5: (1.9, 0),
    }
    for number, (fd, off) in ends.items():
        history.add(number, 100, {"fd": fd + 2, "off_manifold": off})
        history.add(number, 200, {"fd": fd, "off_manifold": off})
    return history


def board(history: History, *records: TrialRecord) -> Leaderboard:
    return leaderboard(records, history, Objective("fd"), GUARDS)


BASELINE = record(0, role="baseline", label="uniform")


def test_a_trial_beyond_the_guard_does_not_win_however_good_it_is(history: History) -> None:
    found = board(history, BASELINE, record(1), record(2), record(3))
    assert [row.number for row in found.rows] == [2, 3, 0, 1]
    assert found.rows[-1].excess["off_manifold"] == pytest.approx(0.18)
    assert found.winner is found.rows[0]
    assert [row.number for row in found.candidates()] == [2, 3]
    assert found.shut_out is found.rows[-1]


def test_a_trial_that_was_stopped_early_is_beside_the_baseline_at_the_same_images(
    history: History,
) -> None:
    history.add(7, 100, {"fd": 5.0, "off_manifold": 0.40})
    history.add(8, 100, {"fd": 9.0, "off_manifold": 0.50})
    history.add(8, 200, {"fd": 2.0, "off_manifold": 0.10})
    baseline = record(8, role="baseline", label="uniform")
    row = next(r for r in board(history, baseline, record(7, "pruned")).rows if r.number == 7)
    assert row.excess["off_manifold"] == pytest.approx(-0.12)


def test_a_trial_beyond_the_guard_is_shut_out_only_where_it_would_have_won(
    history: History,
) -> None:
    history.add(6, 200, {"fd": 2.2, "off_manifold": 0.9})
    assert not board(history, BASELINE, record(6)).rows[-1].within_guards
    assert board(history, BASELINE, record(6)).shut_out is None
    assert board(history, record(1)).shut_out is None


def test_a_baseline_that_nobody_beats_wins(history: History) -> None:
    found = board(history, BASELINE, record(4))
    assert found.winner is found.baseline


def test_where_some_trials_have_repeats_the_winner_is_one_of_them(history: History) -> None:
    repeats = [
        record(4, role="repeat", repeats=0, seed=1),
        record(5, role="repeat", repeats=3, seed=1),
    ]
    found = board(history, BASELINE, record(2), record(3), *repeats)
    winner = found.winner
    assert winner is not None
    assert winner.number == 3
    assert winner.values == (1.8, 1.9)
    assert winner.value == pytest.approx(1.85)
    assert winner.speed_up is not None
    assert len(winner.speed_up.ratios) == 2


def test_the_baselines_repeats_alone_do_not_make_it_the_winner(history: History) -> None:
    """A search may end, by its budget or by Ctrl-C, before the finalist's repeats."""
    found = board(history, BASELINE, record(3), record(4, role="repeat", repeats=0, seed=1))
    assert found.baseline is not None
    assert len(found.baseline.values) == 2
    assert found.winner is found.rows[0] is not found.baseline


def test_unfinished_trials_come_last_and_have_no_value(history: History) -> None:
    found = board(history, BASELINE, record(1, "pruned"), record(2, None), record(9, "error"))
    assert found.rows[0].number == 0
    assert all(row.value is None for row in found.rows[1:])
    assert {row.outcome for row in found.rows[1:]} == {"pruned", "running", "error"}


def test_without_any_finished_trial_nobody_wins(history: History) -> None:
    assert board(history, record(1, "pruned")).winner is None
    assert board(history).baseline is None


def test_the_frame_has_a_line_a_row_and_a_column_a_metric(history: History) -> None:
    frame = board(history, BASELINE, record(2), record(1, "pruned")).frame()
    assert list(frame["trial"]) == [2, 0, 1]
    assert {"rank", "value", "speed_up", "param.k", "metric.fd"} <= set(frame.columns)
