"""Fixed points lie in the space, and a grid covers it once."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from stepsearch.errors import UserError
from stepsearch.study import Space, Study, Suggest
from stepsearch.study.spaces import candidates, grid, run_fixed, shuffled_grid

Make = Callable[..., Study]


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"family": "edm"}, "point: family must be one of 'uniform', 'speed', 'p2', got 'edm'"),
        ({"family": "p2", "p2.gamma": 2.5}, "point: p2.gamma must be in 0.0..2.0, got 2.5"),
        ({"family": "p2", "p2.gamma": "big"}, "point: p2.gamma must be in 0.0..2.0, got 'big'"),
        (
            {"family": "speed", "speed.k": 2.0, "speed.tau": 1200},
            "point: speed.tau must be in 1..1000, got 1200",
        ),
        (
            {"family": "speed", "speed.k": 2.0, "speed.tau": 1.5},
            "point: speed.tau must be in 1..1000, got 1.5",
        ),
        ({"family": "p2"}, "point: p2.gamma must be in 0.0..2.0, got nothing"),
        (
            {"family": "uniform", "p2.gamma": 1.0},
            "point: parameters must be among family, got 'p2.gamma'",
        ),
    ],
)
def test_a_fixed_point_must_lie_in_the_space(
    params: dict[str, Any], message: str, conditional: Space
) -> None:
    with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
        run_fixed(conditional, params, "point")


def test_a_fixed_point_may_leave_out_what_has_one_value_only() -> None:
    def space(trial: Suggest) -> dict[str, Any]:
        return {"x": trial.suggest_float("x", 3, 3), "y": trial.suggest_int("y", 0, 9)}

    probe, values = run_fixed(space, {"y": 4}, "point")
    assert probe.params == values == {"x": 3.0, "y": 4}


def test_a_bad_fixed_point_is_an_error_when_asked_for_and_does_not_block_the_next(
    make: Make, conditional: Space
) -> None:
    study = make()
    study.enqueue({"family": "p2", "p2.gamma": 9.0}, label="paper")
    study.enqueue({"family": "uniform"}, label="uniform")
    with pytest.raises(UserError, match=r"fixed point 'paper': p2.gamma must be in 0.0..2.0"):
        study.ask(conditional)
    proposal = study.ask(conditional)
    assert proposal is not None
    assert proposal.attrs == {"label": "uniform"}
    assert (study.trials()[0].outcome, study.trials()[1].outcome) == ("error", None)
    assert "p2.gamma must be in" in str(study.trials()[0].reason)


@pytest.mark.parametrize(
    ("distribution", "points", "expected"),
    [
        (CategoricalDistribution(["a", "b", None]), 2, ["a", "b", None]),
        (FloatDistribution(0, 1), 3, [0.0, 0.5, 1.0]),
        (FloatDistribution(0, 1), 1, [0.0]),
        (FloatDistribution(2, 2), 5, [2.0]),
        (FloatDistribution(1, 100, log=True), 3, [1.0, 10.0, 100.0]),
        (FloatDistribution(0, 1, step=0.25), 9, [0.0, 0.25, 0.5, 0.75, 1.0]),
        (FloatDistribution(0, 10, step=0.5), 3, [0.0, 5.0, 10.0]),
        (IntDistribution(1, 4), 9, [1, 2, 3, 4]),
        (IntDistribution(1, 1001), 3, [1, 501, 1001]),
        (IntDistribution(0, 9, step=3), 2, [0, 9]),
        (IntDistribution(1, 5, log=True), 9, [1, 2, 3, 4, 5]),
        (IntDistribution(1, 1000, log=True), 4, [1, 10, 100, 1000]),
    ],
)
def test_a_grid_spreads_each_parameter_over_its_range(
    distribution: BaseDistribution, points: int, expected: list[Any]
) -> None:
    found = candidates(distribution, points)
    assert found == pytest.approx(expected) if points > 2 else expected
    assert [type(v) for v in found] == [type(v) for v in expected]
    assert all(distribution._contains(distribution.to_internal_repr(v)) for v in found)


def test_a_grid_gives_each_branch_of_a_conditional_space_its_own_product(
    conditional: Space,
) -> None:
    found = list(grid(conditional, 3))
    counts = {f: sum(p["family"] == f for p in found) for f in ("uniform", "speed", "p2")}
    assert counts == {"uniform": 1, "speed": 9, "p2": 3}
    assert len({frozenset(p.items()) for p in found}) == 13


def test_a_grid_that_never_ends_is_refused() -> None:
    def wide(trial: Suggest) -> dict[str, Any]:
        return {str(i): trial.suggest_float(str(i), 0, 1) for i in range(20)}

    with pytest.raises(UserError, match=r"points must give a grid of at most 10000 points, got 5"):
        shuffled_grid(wide, 5, seed=0)


def test_a_grid_search_asks_each_point_once_and_then_says_that_it_is_exhausted(
    make: Make, conditional: Space
) -> None:
    study = make("grid", sampler={"points": 3})
    study.enqueue({"family": "uniform"}, label="uniform")  # one of the grid's points
    asked = [study.ask(conditional) for _ in range(13)]
    assert {frozenset(p.params.items()) for p in asked if p} == {
        frozenset(p.items()) for p in grid(conditional, 3)
    }
    assert study.ask(conditional) is None
