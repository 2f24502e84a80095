"""A search that is interrupted stops the trials that it would have stopped without."""

from __future__ import annotations

import random
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from ray.tune.schedulers import TrialScheduler

from stepsearch.search.config import BudgetConfig, TrialSchedulerConfig
from stepsearch.search.schedulers import Playback, replay, trial_scheduler
from stepsearch.study import Objective

BUDGET = BudgetConfig(images=1000, reports=4, first_report=0.25)
ASHA = TrialSchedulerConfig(kind="asha", grace=0.25, reduction=2)
ASHA4 = TrialSchedulerConfig(kind="asha", grace=0.25, reduction=4)
MEDIAN = TrialSchedulerConfig(kind="median", grace=0.25, min_trials=2)
RULES = pytest.mark.parametrize("rule", [ASHA, ASHA4, MEDIAN], ids=["asha", "asha4", "median"])


def scheduler(rule: TrialSchedulerConfig) -> TrialScheduler:
    return trial_scheduler(rule, BUDGET, Objective("fd"))


class Searching:
    """Trials on three lanes that report in turn; their scores depend on their numbers alone."""

    def __init__(self, rule: TrialSchedulerConfig) -> None:
        self.rule, self.curves = rule, dict[int, dict[int, float]]()
        self.left, self.on_lanes = list(range(20)), list[int]()
        self.ends: dict[int, int] = {}
        self.restart()

    def restart(self, repeats: bool = False) -> None:
        """Another process goes on, with what the study holds; trials may repeat a report."""
        new = scheduler(self.rule)
        for number, curve in self.curves.items():
            replay(new, number, curve, "fd")
        self.playback = Playback(new, "fd")
        for number in self.on_lanes:
            self.playback.add(number, protected=number < 2)
            if repeats and self.curves[number]:
                last = max(self.curves[number].items())
                assert not self.playback.stops(number, *last), "it was let go on there"

    def reports(self) -> Iterator[int]:
        """Every report, one after another."""
        while self.left or self.on_lanes:
            while self.left and len(self.on_lanes) < 3:
                number = self.left.pop(0)
                self.curves[number] = {}
                self.playback.add(number, protected=number < 2)
                self.on_lanes.append(number)
            self._report(self.on_lanes.pop(0))
            yield sum(map(len, self.curves.values()))

    def _report(self, number: int) -> None:
        milestones = BUDGET.milestones()
        position = len(self.curves[number])
        drawn = random.Random(f"{number}").gauss(10, 3)
        images_seen = milestones[position]
        value = drawn + random.Random(f"{number} {position}").gauss(0, 1) - position
        last = position == len(milestones) - 1
        stops = not last and self.playback.stops(number, images_seen, value)
        self.curves[number][images_seen] = value
        if last or stops:
            self.playback.complete(number, images_seen, value)
            self.ends[number] = images_seen
        else:
            self.on_lanes.append(number)


@RULES
def test_an_interrupted_search_stops_the_same_trials(rule: TrialSchedulerConfig) -> None:
    whole = Searching(rule)
    count = sum(1 for _ in whole.reports())
    assert 3 < sum(end < 1000 for end in whole.ends.values()) < 20
    for at in range(1, count, 3):
        cut = Searching(rule)
        for done in cut.reports():
            if done == at:
                cut.restart(repeats=bool(at % 2))
        assert cut.ends == whole.ends, f"interrupted after {at} reports"


def test_asha_does_not_judge_a_resumed_trial_where_it_was_let_through() -> None:
    resumed = scheduler(ASHA4)
    for number, value in enumerate([6.0, 5.0]):
        replay(resumed, number, {250: value}, "fd")
    playback = Playback(resumed, "fd")
    playback.add(0, protected=False)
    assert not playback.stops(0, 250, 6.0), "the repeated report"
    assert not playback.stops(0, 500, 5.5)
    playback.add(2, protected=False)
    assert playback.stops(2, 250, 5.5), "worse than the better one of two"


def test_the_median_rule_knows_trials_that_ended_before_an_interruption() -> None:
    resumed = scheduler(MEDIAN)
    for number in range(3):
        replay(resumed, number, dict.fromkeys(BUDGET.milestones(), 1.0), "fd")
    playback = Playback(resumed, "fd")
    playback.add(3, protected=False)
    assert playback.stops(3, 250, 9.0)


def test_a_report_that_a_resumed_trial_repeats_is_neither_judged_nor_counted_again() -> None:
    resumed = scheduler(MEDIAN)
    replay(resumed, 0, {250: 9.0}, "fd")  # let go on, the first trial to come so far
    for number in (1, 2):
        replay(resumed, number, {250: 3.0, 500: 1.0}, "fd")
    playback = Playback(resumed, "fd")
    playback.add(1, protected=False)
    assert not playback.stops(1, 500, 1.0)
    playback.add(0, protected=False)
    assert not playback.stops(0, 250, 9.0)
    playback.add(3, protected=False)
    assert not playback.stops(3, 500, 1.9), "the mean of 3 and 1 is 2, once"


@RULES
def test_a_protected_trial_goes_on_however_bad_it_is(rule: TrialSchedulerConfig) -> None:
    playback = Playback(scheduler(rule), "fd")
    for number, value in enumerate([1.0, 1.0, 1.0, 9.0]):
        playback.add(number, protected=number == 3)
        for milestone in BUDGET.milestones()[:-1]:
            assert not playback.stops(number, milestone, value)
        playback.complete(number, 1000, value)


@RULES
def test_a_trial_that_diverges_leaves_the_others_to_the_rule(rule: TrialSchedulerConfig) -> None:
    playing = scheduler(rule)
    playback = Playback(playing, "fd")
    for number, value in enumerate([1.0, 1.0, 1.0]):
        playback.add(number, protected=False)
        playback.stops(number, 250, value)
    diverged: Any = SimpleNamespace(trial_id="2", config={"number": 2, "protected": False})
    over = {"done": True, "outcome": "diverged"}
    playing.on_trial_complete(None, diverged, over)  # type: ignore[arg-type]
    playback.add(3, protected=False)
    assert playback.stops(3, 250, 9.0)
