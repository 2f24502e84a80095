"""Asking, reporting, queueing and opening again."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

from stepsearch.errors import StepsearchError, UserError
from stepsearch.study import (
    Objective,
    Outcome,
    Proposal,
    RandomConfig,
    Space,
    StoredStudy,
    Study,
    Suggest,
    TpeConfig,
    in_memory,
)

Make = Callable[..., Study]


def test_a_proposal_holds_the_parameters_and_what_the_space_returned(
    make: Make, conditional: Space
) -> None:
    study = make()
    study.enqueue({"family": "p2", "p2.gamma": 1.5}, label="P2", role="paper", seed=2)
    assert study.waiting() == 1
    assert study.ask(conditional) == Proposal(
        number=0,
        params={"family": "p2", "p2.gamma": 1.5},
        values={"strategy": {"kind": "p2", "gamma": 1.5}},
        attrs={"label": "P2", "role": "paper", "seed": 2},
    )
    assert study.waiting() == 0


def test_fixed_points_come_first_and_in_their_order(make: Make, line: Space) -> None:
    study = make()
    for x in (0.25, 0.75):
        study.enqueue({"x": x})
    asked = [study.ask(line) for _ in range(3)]
    assert [p.params["x"] for p in asked[:2] if p] == [0.25, 0.75]
    assert asked[2] is not None
    assert asked[2].attrs == {}


def test_a_fixed_point_is_queued_once_and_again_under_another_seed(
    make: Make, line: Space
) -> None:
    study = make()
    assert study.enqueue({"x": 0.5}, role="repeat", seed=1)
    study.ask(line)
    assert not study.enqueue({"x": 0.5}, role="repeat", seed=1)
    assert study.enqueue({"x": 0.5}, role="repeat", seed=2)


@pytest.mark.parametrize("step", [100, np.int64(100)])
@pytest.mark.parametrize("objectives", [("fd",), ("fd", "kid")])
def test_a_report_counts_once_a_step(
    objectives: tuple[str, ...], step: int, make: Make, line: Space
) -> None:
    study = make("random", *objectives)
    study.ask(line)
    for value in (3.0, 2.0):
        study.report(0, step, value)
    study.report(0, 50, 4.0)
    assert study.trials()[0].intermediate == {50: 4.0, 100: 3.0}


@pytest.mark.parametrize("objectives", [("fd",), ("fd", "kid")])
def test_a_resumed_trial_may_report_its_old_steps_again(
    objectives: tuple[str, ...], make: Make, line: Space, tmp_path: Path
) -> None:
    study = make("random", *objectives)
    study.ask(line)
    study.report(0, 100, 3.0)
    study.report(0, 200, math.nan)
    study.close()
    with Study.open(tmp_path / "study.db", study.name) as resumed:
        for step in (100, 200, 300):
            resumed.report(0, step, 1.0)
        curve = resumed.trials()[0].intermediate
    assert curve == {100: 3.0, 200: pytest.approx(math.nan, nan_ok=True), 300: 1.0}


def test_a_study_opens_with_all_that_it_was_created_with(make: Make, tmp_path: Path) -> None:
    study = make(
        "tpe", "fd", "kid", seed=7, sampler={"n_startup_trials": 4}, constraints=["vram", "wall"]
    )
    with StoredStudy.open(tmp_path / "study.db", study.name) as again:
        assert again.settings == study.settings
        assert again.settings.sampler == TpeConfig(n_startup_trials=4)
        assert (again.settings.seed, again.settings.constraints) == (7, ("vram", "wall"))
        assert again.settings.objectives == (Objective("fd"), Objective("kid"))


def test_a_study_can_be_read_while_another_process_drives_it(
    make: Make, line: Space, tmp_path: Path
) -> None:
    study = make()
    with StoredStudy.open(tmp_path / "study.db", study.name) as reader:
        assert reader.trials() == []
        study.ask(line)
        study.report(0, 100, 3.0)
        assert reader.trials() == study.trials()
        study.tell(0, "finished", [2.0])
        assert reader.trials()[0].values == (2.0,)


def outcomes(study: Study, space: Space) -> None:
    """A fixed point and a trial of each outcome; one is still running, one waits."""
    study.enqueue({"family": "speed", "speed.tau": 612, "speed.k": 4.125}, label="paper")
    for number, outcome in enumerate(get_args(Outcome)):
        study.ask(space)
        study.report(number, 100, 3.0)
        study.report(number, 200, math.inf)
        study.tell(number, outcome, [0.1, 0.2], "asha", {"vram": -1.0})
    study.ask(space)
    study.report(len(get_args(Outcome)), 100, -math.inf)
    study.enqueue({"family": "uniform"})


def test_a_look_at_a_study_shows_what_its_storage_holds(
    make: Make, conditional: Space, tmp_path: Path
) -> None:
    study = make("tpe", "fd", "kid", constraints=["vram"])
    outcomes(study, conditional)
    with (
        StoredStudy.look(tmp_path / "study.db", study.name) as seen,
        StoredStudy.open(tmp_path / "study.db", study.name) as stored,
    ):
        for read in (StoredStudy.trials, StoredStudy.unfinished, StoredStudy.waiting):
            assert read(seen) == read(stored)
        assert seen.settings == stored.settings
        assert (seen.waiting(), seen.running()) == (1, [4])
        assert seen.pareto() == stored.pareto() == [stored.trials()[0]]


def test_a_look_at_the_tables_of_another_optuna_is_left_to_optuna(
    make: Make, line: Space, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = make()
    study.ask(line)
    monkeypatch.setattr(in_memory, "KNOWN", [("v99",)])
    with StoredStudy.look(tmp_path / "study.db", study.name) as seen:
        assert seen.trials() == study.trials()
        study.tell(0, "finished", [1.0])
        assert seen.trials() == study.trials(), "no copy"


def test_a_look_names_the_studies_that_there_are(make: Make, tmp_path: Path) -> None:
    make(name="search")
    with pytest.raises(UserError, match=r"stored \('first', 'search'\), got 'serach'"):
        StoredStudy.look(tmp_path / "study.db", "serach")
    with pytest.raises(UserError, match=r"storage must be the file of a study, got .*no.db"):
        StoredStudy.look(tmp_path / "no.db", "search")
    assert not (tmp_path / "no.db").exists()


def test_a_space_that_fails_is_asked_again_for_the_same_trial(make: Make, line: Space) -> None:
    study = make()

    def broken(trial: Any) -> dict[str, Any]:
        line(trial)
        raise RuntimeError("not today")

    with pytest.raises(RuntimeError):
        study.ask(broken)
    assert study.unfinished() == []
    proposal = study.ask(line)
    assert proposal is not None
    assert proposal.number == 0


def test_a_space_must_return_what_json_can_hold(make: Make) -> None:
    with pytest.raises(UserError, match=r"what the space returns must be JSON, got .*int64"):
        make().ask(lambda trial: {"tau": np.int64(3)})


def test_a_queued_point_must_be_json(make: Make) -> None:
    with pytest.raises(UserError, match=r"params must be JSON"):
        make().enqueue({"x": np.float32(0.5)})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"objectives": []}, r"objectives must be a list of 1 or more, got \[\]"),
        ({"objectives": [Objective("fd"), Objective("fd")]}, r"objectives must have free names"),
        ({"sampler": TpeConfig}, r"sampler"),
        ({"seed": -1}, r"seed must be at least 0, got -1"),
        ({"seed": 2**32}, r"seed must be less than 4294967296, got 4294967296"),
        ({"seed": "x"}, r"seed must be an integer, got 'x'"),
        ({"constraints": ["vram", "vram"]}, r"constraints must have free names that differ"),
        ({"constraints": ["finished"]}, r"constraints must have free names .* got 'finished'"),
        ({"constraints": [3]}, r"constraints\[0\] must be a string, got 3"),
    ],
)
def test_a_study_is_refused_in_one_line(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    given: dict[str, Any] = {"objectives": [Objective("fd")], "sampler": RandomConfig(), "seed": 0}
    with pytest.raises(UserError, match=message) as caught:
        Study.create(tmp_path / "study.db", "search", **{**given, **changes})
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "study.db").exists()


def test_an_objective_is_made_small_or_large() -> None:
    with pytest.raises(UserError, match=r"direction must be minimize or maximize, got 'min'"):
        Objective("fd", "min")  # type: ignore[arg-type]


def test_optuna_is_silent_while_a_study_is_used(
    make: Make, line: Space, capfd: pytest.CaptureFixture[str]
) -> None:
    study = make()
    study.ask(line)
    study.tell(0, "finished", [1.0])
    assert capfd.readouterr() == ("", "")


def test_a_running_trial_cannot_be_reported_before_it_is_asked_for(make: Make) -> None:
    study = make()
    study.enqueue({"x": 0.5})
    with pytest.raises(StepsearchError, match=r"trial 0 must be running, it is waiting"):
        study.report(0, 100, 1.0)


def test_an_ask_that_the_space_broke_off_is_taken_up_by_the_next_one(
    make: Make, line: Space
) -> None:
    def broken(trial: Suggest) -> dict[str, Any]:
        raise RuntimeError("not now")

    study = make()
    study.enqueue({"x": 0.5}, label="first")
    with pytest.raises(RuntimeError, match="not now"):
        study.ask(broken)
    proposal = study.ask(line)
    assert proposal is not None
    assert (proposal.number, proposal.attrs) == (0, {"label": "first"})
    assert study.running() == [0]
    study.tell(0, "error", reason="enough")
    assert study.running() == []
    again = study.ask(line)
    assert again is not None
    assert again.number == 1


def test_a_study_in_memory_proposes_what_one_in_a_file_does(make: Make, line: Space) -> None:
    objectives = [Objective("fd_digits")]
    asked = []
    with Study.create(None, "search", objectives, TpeConfig(n_startup_trials=2), 7) as memory:
        for study in (memory, make("tpe", seed=7, sampler={"n_startup_trials": 2})):
            for number in range(6):
                proposal = study.ask(line)
                assert proposal is not None
                study.report(number, 100, proposal.params["x"])
                study.tell(number, "finished", [proposal.params["x"]])
            asked.append([record.params["x"] for record in study.trials()])
    assert asked[0] == asked[1]


def test_a_sampler_is_asked_again_for_what_it_has_proposed_before(
    make: Make, tmp_path: Path
) -> None:
    """Five choices: each one is tried once before any of them is tried again."""

    def choice(trial: Suggest) -> dict[str, Any]:
        return {"family": trial.suggest_categorical("family", ("a", "b", "c", "d", "e"))}

    study = make("random")
    study.enqueue({"family": "a"}, label="baseline")
    asked = [proposal for _ in range(5) if (proposal := study.ask(choice))]
    assert sorted(proposal.values["family"] for proposal in asked) == ["a", "b", "c", "d", "e"]
    numbers = [proposal.number for proposal in asked]
    assert [record.number for record in study.trials()] == numbers
    assert study.running() == numbers
    study.enqueue({"family": "a"}, role="repeat", seed=1)
    repeat = study.ask(choice)
    assert repeat is not None
    assert repeat.values == {"family": "a"}  # what is queued is tried, known or not
    assert study.ask(choice) is not None  # nothing new is left


def test_a_passed_over_proposal_stays_so_when_a_study_is_opened_again(
    make: Make, tmp_path: Path
) -> None:
    def coin(trial: Suggest) -> dict[str, Any]:
        return {"side": trial.suggest_categorical("side", ("heads", "tails"))}

    study = make("random")
    first, second = study.ask(coin), study.ask(coin)
    assert first is not None
    assert second is not None
    assert first.values != second.values
    again = StoredStudy.open(tmp_path / "study.db", study.name)
    assert again.trials() == study.trials()


def test_a_sampler_that_insists_on_one_choice_is_replaced_by_chance(make: Make) -> None:
    def space(trial: Suggest) -> dict[str, Any]:
        if trial.suggest_categorical("family", ("plain", "other")) == "plain":
            return {"kind": "plain"}
        return {"kind": "other", "x": trial.suggest_float("x", 0, 1)}

    study = make("tpe", sampler={"n_startup_trials": 2})
    seen = []
    for _ in range(12):
        proposal = study.ask(space)
        assert proposal is not None
        seen.append(json.dumps(proposal.values))
        study.tell(proposal.number, "finished", [0.0 if len(proposal.values) == 1 else 1.0])
    assert len(set(seen)) == 12
