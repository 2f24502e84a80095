"""CMA-ES begins at the best trial that has finished, and a killed process does not move it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import optuna
import pytest
from optuna.samplers import BaseSampler, CmaEsSampler

from stepsearch.study import CmaEsConfig, Direction, Objective, Space, Study, Suggest
from stepsearch.study.samplers import trial_seed

NAMES = ("a", "b", "c", "share")
GOOD = {"a": 0.7, "b": -0.8, "c": 30, "share": 1.0}
"""Far from the middle of the box, 0, 0, about 10 and 0.5, and with a share at its bound."""
Make = Callable[..., Study]


@pytest.fixture(scope="module")
def box() -> Space:
    """Numbers of all sorts, and a choice that is none."""

    def space(trial: Suggest) -> dict[str, Any]:
        return {
            "case": trial.suggest_categorical("case", ("only",)),
            "a": trial.suggest_float("a", -1, 1),
            "b": trial.suggest_float("b", -1, 1),
            "c": trial.suggest_int("c", 1, 100, log=True),
            "share": trial.suggest_float("share", 0, 1),
        }

    return space


def point(**others: float) -> dict[str, Any]:
    return {"case": "only", "a": 0.0, "b": 0.0, "c": 10, "share": 0.0} | others


def loss(params: dict[str, Any]) -> float:
    """0 at GOOD."""
    terms = [params[name] - GOOD[name] for name in ("a", "b", "share")]
    return sum(term**2 for term in terms) + (params["c"] / GOOD["c"] - 1) ** 2


def ended(study: Study, space: Space, value: float | None = None, **constraints: float) -> Any:
    """The parameters of a trial that was asked for and has finished."""
    proposal = study.ask(space)
    assert proposal is not None
    told = loss(proposal.params) if value is None else value
    study.tell(proposal.number, "finished", [told], None, constraints)
    return proposal.params


def near(params: dict[str, Any], start: dict[str, Any], share: float = 0.1) -> bool:
    """Whether a point is within a share of each range, in log of one that is."""
    ratio: float = params["c"] / start["c"]
    return (
        all(abs(params[name] - start[name]) <= 2 * share for name in ("a", "b"))
        and abs(params["share"] - start["share"]) <= share
        and 100**-share - 0.1 <= ratio <= 100**share + 0.1
    )


def begin(direction: Direction = "minimize", **more: Any) -> Study:
    sampler = CmaEsConfig(sigma0=0.01)
    return Study.create(None, "s", [Objective("fd", direction)], sampler, 0, **more)


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
def test_every_number_is_drawn_around_the_best_fixed_point(
    direction: Direction, box: Space
) -> None:
    sign = 1 if direction == "minimize" else -1
    with begin(direction) as study:
        for params in (point(), point(**GOOD), point(a=-0.9)):
            study.enqueue(params)
        for _ in range(3):
            proposal = study.ask(box)
            assert proposal is not None
            study.tell(proposal.number, "finished", [sign * loss(proposal.params)])
        drawn = [ended(study, box, sign * 5.0) for _ in range(6)]
    assert all(near(params, GOOD) for params in drawn)
    for name in NAMES:
        different = len({params[name] for params in drawn})
        assert different > 1, f"{name} is drawn"
    assert all(params["share"] <= 1 for params in drawn)
    assert sum(params["share"] == 1 for params in drawn) <= 1, "drawn again, not cut off"


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_it_improves_on_a_fixed_point_that_optuna_alone_forgets(seed: int, box: Space) -> None:
    def losses(build: Callable[[int], BaseSampler]) -> list[float]:
        study = optuna.create_study()
        for params in (point(), point(a=0.5, b=-0.6, c=20, share=1)):
            study.enqueue_trial(params)
        found = []
        for number in range(32):
            study.sampler = build(number)
            trial = study.ask()
            found.append(loss(dict(box(trial))))
            study.tell(trial, found[-1])
        return found

    config = CmaEsConfig()
    ours = losses(lambda number: config.build(seed, number))
    optunas = losses(
        lambda number: CmaEsSampler(seed=trial_seed(seed, number), warn_independent_sampling=False)
    )
    assert median(ours[2:]) < 0.75 * median(optunas[2:])
    assert min(ours[2:]) < 0.8 * ours[1], "ours[1] is the better one of the fixed points"


def test_it_waits_for_the_fixed_points_and_then_stays(box: Space) -> None:
    with begin() as study:
        study.enqueue(point())
        study.enqueue(point(**GOOD))
        ended(study, box)
        slow = study.ask(box)
        assert slow is not None
        assert not near(ended(study, box, 9.0), point(), 0.05), "a random one meanwhile"
        study.tell(slow.number, "finished", [0.5])
        assert near(ended(study, box, 9.0), GOOD)
        study.enqueue(point(a=-0.9, b=0.9), label="later")
        ended(study, box, 0.0)
        assert near(ended(study, box, 9.0), GOOD), "one generation, one mean"


@pytest.mark.parametrize("outcome", ["pruned", "diverged", "error"])
def test_it_does_not_begin_at_a_trial_that_did_not_finish(outcome: Any, box: Space) -> None:
    with begin() as study:
        study.enqueue(point())
        study.enqueue(point(**GOOD))
        ended(study, box)
        proposal = study.ask(box)
        assert proposal is not None
        study.report(proposal.number, 100, 0.0)
        study.tell(proposal.number, outcome, [0.0])
        assert near(ended(study, box), point())


def test_it_begins_at_a_feasible_trial_or_at_the_least_infeasible_one(box: Space) -> None:
    with begin(constraints=["static"]) as study:
        study.enqueue(point())
        study.enqueue(point(**GOOD))
        ended(study, box, 3.0, static=-1.0)
        ended(study, box, 1.0, static=0.1)
        assert near(ended(study, box, 3.0, static=0.0), point())
    with begin(constraints=["static"]) as study:
        study.enqueue(point())
        study.enqueue(point(**GOOD))
        ended(study, box, 1.0, static=0.2)
        ended(study, box, 3.0, static=0.1)
        assert near(ended(study, box, 3.0, static=0.0), GOOD)


def test_it_begins_at_a_trial_of_a_warm_start(box: Space) -> None:
    with begin() as earlier, begin() as study:
        earlier.enqueue(point(**GOOD))
        ended(earlier, box)
        study.warm_start(earlier, box, {0})
        study.enqueue(point())
        ended(study, box)
        assert near(ended(study, box), GOOD)


def test_random_trials_come_first_where_there_are_no_fixed_points(box: Space) -> None:
    sampler = CmaEsConfig(n_startup_trials=4, sigma0=0.01)
    with Study.create(None, "s", [Objective("fd")], sampler, 0) as study:
        drawn = [ended(study, box) for _ in range(8)]
    best = min(drawn[:4], key=loss)
    assert not any(near(params, best) for params in drawn[:4] if params != best)
    assert all(near(params, best) for params in drawn[4:])


@pytest.mark.parametrize("cut", [2, 4, 8, 14])
def test_an_interrupted_study_proposes_the_same(
    cut: int, make: Make, box: Space, tmp_path: Path
) -> None:
    """Two trials run at a time, over more than one generation of 8."""

    def drive(study: Study, n: int, running: list[Any]) -> list[dict[str, Any]]:
        asked = []
        for _ in range(n):
            proposal = study.ask(box)
            assert proposal is not None
            asked.append(proposal.params)
            running.append(proposal)
            if len(running) == 2:
                first = running.pop(0)
                study.tell(first.number, "finished", [loss(first.params)])
        return asked

    studies = [make("cmaes") for _ in range(2)]
    for study in studies:
        for params in (point(), point(**GOOD), point(a=-0.9)):
            study.enqueue(params)
    whole, running = drive(studies[0], 20, []), list[Any]()
    begun = drive(studies[1], cut, running)
    studies[1].close()
    with Study.open(tmp_path / "study.db", studies[1].name) as resumed:
        assert begun + drive(resumed, 20 - cut, running) == whole
