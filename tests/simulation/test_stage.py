"""A configuration among recorded curves: who stands in, at which milestones, what is refused."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

from search_spaces import P2Space, SpeedSpace
from stepsearch.errors import UserError
from stepsearch.search.config import SearchConfig
from stepsearch.simulation.curves import Curves
from stepsearch.simulation.stage import Stage
from stepsearch.simulation.stand_ins import StandIns

Search = Callable[..., SearchConfig]


def numbers(stage: Stage) -> list[int]:
    return [recording.number for recording in stage.candidates]


def test_the_nearest_recording_stands_in_on_the_scale_of_its_range(
    search: Search, curves: Curves
) -> None:
    stand_ins = StandIns(Stage(search(), curves).cube, curves.originals[2:4], reuse=False)
    # tau and lam lie in the middle; k = 4.5 is nearer to 2 than to 8, but not on its log scale.
    recording, distance = stand_ins.take({"tau": 0.55, "k": 4.5, "lam": 0.65})
    assert recording.number == 3
    expected = math.hypot(0.05 / 0.6, math.log10(8 / 4.5), 0.05 / 0.3)
    assert distance == pytest.approx(expected)


def test_each_recording_stands_in_once_unless_it_may_again(search: Search, curves: Curves) -> None:
    stage = Stage(search(), curves)
    point = {"tau": 0.5, "k": 2.0, "lam": 0.6}
    once = StandIns(stage.cube, stage.candidates, reuse=False)
    assert sorted(once.take(point)[0].number for _ in range(6)) == [0, 1, 2, 3, 4, 5]
    again = StandIns(stage.cube, stage.candidates, reuse=True)
    assert {again.take(point)[0].number for _ in range(6)} == {2}


def test_recordings_outside_of_the_ranges_do_not_stand_in(search: Search, curves: Curves) -> None:
    assert numbers(Stage(search(), curves)) == [0, 1, 2, 3, 4, 5]
    narrow = search(space=SpeedSpace(tau=(0.6, 1.0), lam=(0.5, 0.65)), budget={"trials": 3})
    assert numbers(Stage(narrow, curves)) == [0, 1, 4]


def test_the_best_recording_keeps_within_the_guards(search: Search, curves: Curves) -> None:
    stage = Stage(search(), curves)
    assert stage.best.number == 2
    regrets = [stage.regret(recording) for recording in curves.originals]
    assert regrets == [1.0, 0.5, 0.0, 1.25, 2.5, None]
    unguarded = Stage(search(guards={}), curves)
    assert unguarded.best.number == 5
    assert unguarded.regret(curves.recordings[2]) == 1.0


def test_what_is_to_be_large_has_its_regret_the_other_way_round(
    search: Search, curves: Curves
) -> None:
    upwards = search(objectives=[{"name": "fd", "direction": "maximize"}])
    stage = Stage(upwards, curves)
    assert stage.best.number == 4
    assert stage.regret(curves.recordings[0]) == pytest.approx(3 / 7)


def acts(stage: Stage, number: int = 2) -> list[tuple[int, int, float, float]]:
    return [(a.images_seen, a.images, a.seconds, a.metrics["fd"]) for a in stage.acts[number]]


def test_a_replayed_trial_reports_what_was_recorded_at_its_milestones(
    search: Search, curves: Curves
) -> None:
    assert acts(Stage(search(), curves)) == [
        (250, 250, 1.5, 9.0),
        (500, 250, 1.5, 7.0),
        (750, 250, 1.5, 3.5),
        (1000, 250, 1.5, 2.0),
    ]
    fewer = Stage(search(budget={"reports": 2, "first_report": 0.5}), curves)
    assert acts(fewer) == [(500, 500, 2.5, 7.0), (1000, 500, 2.5, 2.0)]


def test_another_budget_has_the_milestones_of_the_same_share(
    search: Search, curves: Curves
) -> None:
    longer = Stage(search(budget={"images": 3000, "reports": 2, "first_report": 0.5}), curves)
    assert acts(longer) == [(1500, 1500, 3 * 2 + 0.5, 7.0), (3000, 1500, 3 * 2 + 0.5, 2.0)]


def test_the_recorded_objective_plays_that_of_another_data_set(
    search: Search, curves: Curves
) -> None:
    stage = Stage(search(objectives=[{"name": "fd_my_pictures"}]), curves)
    assert [objective.name for objective in stage.config.objectives] == ["fd"]


REFUSED: list[tuple[dict[str, Any], str]] = [
    (
        {"budget": {"reports": 5, "first_report": 0.2}},
        "budget must report at recorded shares of the images (0.25, 0.5, 0.75, 1), "
        "got 0.2, 0.4, 0.6, 0.8, 1",
    ),
    (
        {"budget": {"trials": 7}},
        "budget.trials must be at most 6, the configurations that were recorded inside the "
        "space's ranges, got 7",
    ),
    (
        {"space": P2Space()},
        "space must have the recorded parameters (k, lam, tau), got gamma",
    ),
    ({"guards": {"kid": 0.1}}, "guards must be recorded (fd, off_manifold), got 'kid'"),
    (
        {"objectives": [{"name": "fd"}, {"name": "recall"}]},
        "objectives must be recorded (fd, off_manifold), got 'recall'",
    ),
]


@pytest.mark.parametrize(("changes", "line"), REFUSED)
def test_what_was_not_recorded_is_refused_in_one_line(
    changes: dict[str, Any], line: str, search: Search, curves: Curves
) -> None:
    with pytest.raises(UserError) as refused:
        Stage(search(**changes), curves)
    assert str(refused.value) == line
