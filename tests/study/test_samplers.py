"""Every kind of sampler keeps one contract, inside a conditional space."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stepsearch.config import parse
from stepsearch.errors import UserError
from stepsearch.study import OPTUNA_SAMPLERS, Outcome, Space, Study, StudySettings

KINDS = list(OPTUNA_SAMPLERS)
SMALL: dict[str, dict[str, Any]] = {  # small enough for each to get past its random start
    "tpe": {"n_startup_trials": 2},
    "gp": {"n_startup_trials": 2},
    "nsga2": {"population_size": 2},
    "nsga3": {"population_size": 2},
    "grid": {"points": 3},
}
Make = Callable[..., Study]


def loss(params: dict[str, Any]) -> float:
    k, gamma = params.get("speed.k", 1), params.get("p2.gamma", 0)
    tau = params.get("speed.tau", 0)
    return float((math.log(k) - 1) ** 2 + (gamma - 1) ** 2 + tau / 1000)


def drive(study: Study, space: Space, n: int) -> list[dict[str, Any]]:
    """Ask, report and tell n trials; returns their parameters."""
    asked = []
    for _ in range(n):
        proposal = study.ask(space)
        assert proposal is not None
        asked.append(proposal.params)
        study.report(proposal.number, 100, 2 * loss(proposal.params))
        values = [loss(proposal.params) * s for s in (1, -1)]
        outcome: Outcome = "pruned" if proposal.number % 4 == 3 else "finished"
        study.tell(proposal.number, outcome, values[: len(study.settings.objectives)])
    return asked


@pytest.mark.parametrize("kind", KINDS)
def test_every_sampler_proposes_inside_a_conditional_space(
    kind: str, make: Make, conditional: Space
) -> None:
    for params in drive(make(kind, sampler=SMALL.get(kind, {})), conditional, 6):
        ranges = {"speed.tau": (1, 1000), "speed.k": (1, 10), "p2.gamma": (0, 2)}
        family = params.pop("family")
        assert set(params) == {name for name in ranges if name.startswith(family)}
        assert all(ranges[n][0] <= value <= ranges[n][1] for n, value in params.items())


@pytest.mark.parametrize("kind", [k for k in KINDS if OPTUNA_SAMPLERS[k].several_objectives])
def test_every_sampler_but_cmaes_takes_several_objectives(
    kind: str, make: Make, conditional: Space
) -> None:
    study = make(kind, "fd_digits", "off_manifold", sampler=SMALL.get(kind, {}))
    drive(study, conditional, 6)
    assert all(t.outcome in ("finished", "pruned") for t in study.trials())


def test_cmaes_refuses_several_objectives_in_one_line(make: Make) -> None:
    with pytest.raises(UserError, match=r"sampler.kind must be one of tpe, .* for 2 objectives"):
        make("cmaes", "fd_digits", "off_manifold")


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_seed_and_tells_give_the_same_proposals_even_after_a_resume(
    kind: str, make: Make, conditional: Space, tmp_path: Path
) -> None:
    options = SMALL.get(kind, {})
    whole = drive(make(kind, sampler=options), conditional, 6)
    half = make(kind, sampler=options)
    first = drive(half, conditional, 3)
    half.close()
    with Study.open(tmp_path / "study.db", half.name) as resumed:
        assert first + drive(resumed, conditional, 3) == whole


@pytest.mark.parametrize("kind", KINDS)
def test_another_seed_gives_other_proposals(kind: str, make: Make, conditional: Space) -> None:
    studies = [make(kind, seed=seed) for seed in (0, 1)]
    asked = [[study.ask(conditional) for _ in range(3)] for study in studies]
    assert asked[0] != asked[1]


def test_no_proposal_is_repeated_by_a_resumed_search(
    make: Make, line: Space, tmp_path: Path
) -> None:
    study = make("random")
    asked = drive(study, line, 3)
    study.close()
    for _ in range(3):
        with Study.open(tmp_path / "study.db", study.name) as again:
            asked += drive(again, line, 1)
    assert len({params["x"] for params in asked}) == 6


PROGRAM = """
import sys
from stepsearch.study import Objective, Study, TpeConfig

def space(trial):
    if trial.suggest_categorical("family", ["a", "b"]) == "a":
        return {"x": trial.suggest_float("x", 0, 1), "y": trial.suggest_float("y", 0, 1)}
    return {"z": trial.suggest_int("z", 1, 9)}

sampler = TpeConfig(n_startup_trials=3, group=True)
with Study.create(sys.argv[1], "s", [Objective("fd")], sampler, 0) as study:
    for _ in range(10):
        proposal = study.ask(space)
        print(proposal.params)
        study.tell(proposal.number, "finished", [sum(proposal.values.values())])
"""


def test_proposals_do_not_depend_on_the_hash_seed_of_the_process(tmp_path: Path) -> None:
    printed = set()
    for seed in ("1", "2"):
        environment = {
            **os.environ,
            "PYTHONHASHSEED": seed,
            "PYTHONPATH": os.pathsep.join(sys.path),
        }
        command = [sys.executable, "-c", PROGRAM, str(tmp_path / f"{seed}.db")]
        printed.add(subprocess.check_output(command, env=environment, text=True))
    assert len(printed) == 1


BAD: list[tuple[dict[str, Any], str]] = [
    ({"kind": "bayes"}, r"sampler.kind must be one of 'tpe', .* got 'bayes'"),
    (
        {"kind": "tpe", "n_startup_trials": 0},
        r"n_startup_trials must be at least 1, got 0",
    ),
    ({"kind": "tpe", "multivariate": "much"}, r"multivariate must be true or false, got 'much'"),
    ({"kind": "tpe", "group": "no way"}, r"group must be true or false, got 'no way'"),
    ({"kind": "tpe", "group": True, "multivariate": False}, r"group must be false when"),
    ({"kind": "tpe", "constant_liar": 3}, r"constant_liar must be true or false, got 3"),
    ({"kind": "tpe", "gamma": 3}, r"gamma is not a known key"),
    ({"kind": "gp", "n_startup_trials": 0.5}, r"n_startup_trials must be an integer, got 0.5"),
    (
        {"kind": "cmaes", "n_startup_trials": -1},
        r"n_startup_trials must be at least 1, got -1",
    ),
    ({"kind": "cmaes", "sigma0": 0}, r"sigma0 must be greater than 0, got 0"),
    ({"kind": "cmaes", "sigma0": 1.5}, r"sigma0 must be at most 1, got 1.5"),
    (
        {"kind": "nsga2", "population_size": 1},
        r"population_size must be at least 2, got 1",
    ),
    (
        {"kind": "nsga3", "population_size": 0},
        r"population_size must be at least 2, got 0",
    ),
    ({"kind": "qmc", "seed": 1}, r"seed is not a known key"),
    ({"kind": "random", "points": 3}, r"points is not a known key"),
    ({"kind": "grid", "points": 1}, r"points must be at least 2, got 1"),
]


@pytest.mark.parametrize(("sampler", "message"), BAD)
def test_a_bad_sampler_is_refused_in_one_line(sampler: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        parse(StudySettings, {"objectives": [{"name": "fd"}], "seed": 0, "sampler": sampler})
    assert "\n" not in str(caught.value)
