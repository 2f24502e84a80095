"""How many workers a lane asks for, and how what it holds is counted."""

from __future__ import annotations

import time

import pytest
from ray.train.v2._internal.execution.failure_handling import FailureDecision

from stepsearch.search import lane_trainer
from stepsearch.search.hold import Hold
from stepsearch.search.lane_trainer import _LaneFailures, _Size


def test_a_lane_of_one_size_waits_for_ever() -> None:
    size = _Size((2,))
    assert not size.enough(1e6)
    assert (size.workers, size.found()) == (2, 1.0)


def test_without_room_the_next_number_is_tried_and_after_the_last_the_first() -> None:
    size, tried = _Size((4, 2, 1)), []
    for _ in range(4):
        tried.append(size.workers)
        assert not size.enough(lane_trainer._TRIED_S - 1)
        assert size.enough(lane_trainer._TRIED_S)
    assert tried == [4, 2, 1, 4]


def test_after_it_has_found_room_the_most_are_asked_for_again() -> None:
    size = _Size((4, 2, 1))
    size.enough(60)
    assert (size.workers, size.found(), size.workers) == (2, 0.5, 4)


def test_to_try_another_number_is_no_failure() -> None:
    lost: list[int] = []
    size = _Size((2, 1))
    failures = _LaneFailures(lambda: bool(lost.append(1)), size)
    for _ in range(10):
        size.enough(60)
        assert failures.make_decision(RuntimeError()) is FailureDecision.RETRY  # type: ignore[arg-type]
    assert not lost
    decisions = [failures.make_decision(RuntimeError()) for _ in range(3)]  # type: ignore[arg-type]
    assert decisions == [FailureDecision.RETRY, FailureDecision.RETRY, FailureDecision.RAISE]
    assert len(lost) == 3


def test_half_the_workers_hold_half_as_much(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    hold = Hold()
    hold.begin(0.5)
    now = 110.0
    assert hold.seconds == 5.0
    hold.end()
    hold.begin()
    now = 113.0
    assert hold.seconds == 8.0
