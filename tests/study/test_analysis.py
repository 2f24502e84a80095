"""The best trial, the Pareto front, importance, and what an earlier study teaches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from stepsearch.errors import UserError
from stepsearch.study import Objective, Outcome, RandomConfig, Space, Study, Suggest

Make = Callable[..., Study]


def run(study: Study, space: Space, outcome: Outcome, values: Any = None, **more: Any) -> None:
    """Ask for one trial and tell how it ended."""
    proposal = study.ask(space)
    assert proposal is not None
    study.tell(proposal.number, outcome, values, **more)


@pytest.mark.parametrize(("direction", "number"), [("minimize", 1), ("maximize", 0)])
def test_the_best_trial_is_a_finished_and_feasible_one(
    direction: Any, number: int, tmp_path: Any, line: Space
) -> None:
    objectives = [Objective("fd", direction)]
    create = (tmp_path / "study.db", "search", objectives, RandomConfig(), 0)
    with Study.create(*create, constraints=["vram"]) as study:
        assert study.best() is None
        for value in (3.0, 2.0):
            run(study, line, "finished", [value], constraints={"vram": -1.0})
        for value in (1.0, 4.0):
            run(study, line, "finished", [value], constraints={"vram": 1.0})
        run(study, line, "pruned", [0.0])
        run(study, line, "diverged")
        best, infeasible = study.best(), study.best(feasible_only=False)
        assert best is not None
        assert best.number == number
        assert infeasible is not None
        assert infeasible.number == number + 1 + 2 * (direction == "maximize")


def test_the_best_of_several_objectives_is_a_pareto_front(make: Make, line: Space) -> None:
    study = make("random", "fd", "kid")
    for values in ([3.0, 1.0], [1.0, 3.0], [2.0, 4.0]):
        run(study, line, "finished", values)
    run(study, line, "pruned", [0.0, 0.0])
    assert [t.number for t in study.pareto()] == [0, 1]
    with pytest.raises(UserError, match=r"best must have one objective, got 2"):
        study.best()


def test_the_pareto_front_of_one_objective_is_its_best_trial(make: Make, line: Space) -> None:
    study = make()
    for value in (3.0, 1.0, 2.0):
        run(study, line, "finished", [value])
    assert study.pareto() == [study.best()]


def two(trial: Suggest) -> dict[str, Any]:
    return {name: trial.suggest_float(name, 0, 1) for name in ("large", "small")}


@pytest.mark.parametrize("objectives", [("fd",), ("fd", "kid")])
def test_importance_finds_the_parameter_that_matters(
    objectives: tuple[str, ...], make: Make
) -> None:
    study = make("random", *objectives)
    for number in range(30):
        proposal = study.ask(two)
        assert proposal is not None
        if number == 9:
            assert study.importance() == {}
        value = (proposal.params["large"] - 0.5) ** 2
        study.tell(proposal.number, "finished", [value, 2 * value][: len(objectives)])
    found = study.importance()
    assert list(found) == ["large", "small"]
    assert found["large"] > 0.7
    assert sum(found.values()) == pytest.approx(1)


def test_importance_is_silent_about_branches_with_few_trials(
    make: Make, conditional: Space
) -> None:
    study = make()
    study.enqueue({"family": "p2", "p2.gamma": 1.0})
    for _ in range(10):
        study.enqueue({"family": "uniform"}, label=str(_))
    for number in range(11):
        run(study, conditional, "finished", [float(number)])
    assert set(study.importance()) == {"family", "p2.gamma"}


def narrow(trial: Suggest) -> dict[str, Any]:
    return {"x": trial.suggest_float("x", 0, 0.5), "kind": trial.suggest_categorical("k", "ab")}


def test_a_warm_start_adds_the_finished_trials_that_lie_in_the_space(make: Make) -> None:
    def wide(trial: Suggest) -> dict[str, Any]:
        return {"x": trial.suggest_float("x", 0, 1), "k": trial.suggest_categorical("k", "abc")}

    old, new = make("tpe", name="old"), make("tpe", name="new")
    for x, k in ((0.25, "a"), (0.75, "a"), (0.25, "c"), (0.5, "b")):
        old.enqueue({"x": x, "k": k})
    for value in (1.0, 2.0, 3.0, 4.0):
        run(old, wide, "finished", [value])
    run(old, wide, "error")
    assert new.warm_start(old, narrow, [0]) == 1
    assert new.warm_start(old, narrow, range(5)) == 1
    assert new.warm_start(old, narrow, range(5)) == 0
    assert new.trials() == []
    records = new.warm_started()
    assert [t.params for t in records] == [{"x": 0.25, "k": "a"}, {"x": 0.5, "k": "b"}]
    assert [t.values for t in records] == [(1.0,), (4.0,)]
    assert records[0].attrs == {"role": "warm_start", "source": "old/0"}
    assert records[0].proposed == {"x": 0.25, "kind": "a"}
    assert new.best() is None
    run(new, narrow, "finished", [5.0])
    best = new.best()
    assert best is not None
    assert best.number == 2


def test_a_warm_start_needs_the_same_objectives_and_constraints(make: Make, line: Space) -> None:
    old, bounded = make("tpe"), make("tpe", constraints=["vram"])
    run(old, line, "finished", [1.0])
    assert bounded.warm_start(old, line, [0]) == 0
    with pytest.raises(
        UserError, match=r"warm_start must have objectives .*kid.* got .*fd_digits"
    ):
        make("tpe", "kid").warm_start(old, line, [0])


def test_a_warm_start_works_with_several_objectives(make: Make, line: Space) -> None:
    old, new = (make("gp", "fd", "kid", sampler={"n_startup_trials": 1}) for _ in range(2))
    run(old, line, "finished", [1.0, 2.0])
    assert new.warm_start(old, line, [0]) == 1
    run(new, line, "finished", [2.0, 1.0])
    assert [t.number for t in new.pareto()] == [1]
