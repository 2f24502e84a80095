"""The table of the design: what Optuna is told for each way in which a trial ends."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState

from stepsearch.errors import StepsearchError, UserError
from stepsearch.study import Space, Study, TrialRecord

Make = Callable[..., Study]
COMPLETE, PRUNED, FAIL = TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL


@pytest.fixture
def end(make: Make, line: Space, tmp_path: Path) -> Callable[..., tuple[TrialRecord, FrozenTrial]]:
    """end(objectives, tell's arguments) -> our record and Optuna's own trial, read anew."""

    def end(
        objectives: tuple[str, ...], *told: Any, declared: tuple[str, ...] = (), **more: Any
    ) -> tuple[TrialRecord, FrozenTrial]:
        study = make("random", *objectives, constraints=declared)
        proposal = study.ask(line)
        assert proposal is not None
        for step in (100, 200):
            study.report(proposal.number, step, 1 / step)
        study.tell(proposal.number, *told, **more)
        url = f"sqlite:///{tmp_path / 'study.db'}"
        storage = optuna.storages.RDBStorage(url, skip_compatibility_check=True)
        [trial] = optuna.load_study(study_name=study.name, storage=storage).get_trials()
        [record] = study.trials()
        assert record.intermediate == {100: 0.01, 200: 0.005}
        return record, trial

    return end


ONE, TWO = ("fd",), ("fd", "kid")
NAN, INF = math.nan, math.inf
TABLE: list[tuple[tuple[str, ...], tuple[Any, ...], TrialState, str, Any, str | None]] = [
    # objectives, told, Optuna's state, outcome, values, reason
    (ONE, ("finished", [3.0]), COMPLETE, "finished", (3.0,), None),
    (TWO, ("finished", [3.0, 4.0]), COMPLETE, "finished", (3.0, 4.0), None),
    (ONE, ("pruned", None, "asha"), PRUNED, "pruned", (0.005,), "asha"),
    (ONE, ("pruned", [0.005], "asha"), PRUNED, "pruned", (0.005,), "asha"),
    (TWO, ("pruned", [3.0, 4.0], "asha"), COMPLETE, "pruned", (3.0, 4.0), "asha"),
    (TWO, ("pruned", None, "asha"), FAIL, "pruned", None, "asha"),
    (TWO, ("pruned", [3.0], "asha"), FAIL, "pruned", None, "asha"),
    (TWO, ("pruned", [None, 3.0], "asha"), FAIL, "pruned", None, "asha"),
    (ONE, ("diverged", None, "loss is nan"), FAIL, "diverged", None, "loss is nan"),
    (TWO, ("diverged", [1.0, 2.0], "loss is nan"), FAIL, "diverged", None, "loss is nan"),
    (ONE, ("error", None, "CUDA out of memory"), FAIL, "error", None, "CUDA out of memory"),
    (TWO, ("error", None, "CUDA out of memory"), FAIL, "error", None, "CUDA out of memory"),
    (ONE, ("finished", [NAN]), FAIL, "diverged", None, "fd is nan"),
    (TWO, ("finished", [1.0, INF]), FAIL, "diverged", None, "kid is inf"),
    (TWO, ("finished", [1.0, None]), FAIL, "diverged", None, "kid is missing"),
    (TWO, ("finished", [1.0]), FAIL, "diverged", None, "kid is missing"),
    (ONE, ("finished", None), FAIL, "diverged", None, "fd is missing"),
    (TWO, ("pruned", [NAN, 1.0]), FAIL, "diverged", None, "fd is nan"),
]


@pytest.mark.parametrize(("objectives", "told", "state", "outcome", "values", "reason"), TABLE)
def test_a_trial_ends_as_the_table_says(
    objectives: tuple[str, ...],
    told: tuple[Any, ...],
    state: TrialState,
    outcome: str,
    values: Any,
    reason: str | None,
    end: Callable[..., tuple[TrialRecord, FrozenTrial]],
) -> None:
    record, trial = end(objectives, *told)
    assert trial.state is state
    assert (record.outcome, record.values, record.reason) == (outcome, values, reason)
    assert record.feasible == (outcome == "finished")


def test_a_pruned_trial_of_one_objective_keeps_its_intermediate_values(
    end: Callable[..., tuple[TrialRecord, FrozenTrial]],
) -> None:
    _, trial = end(ONE, "pruned")
    assert trial.intermediate_values == {100: 0.01, 200: 0.005}
    assert trial.value == 0.005


@pytest.mark.parametrize(
    ("told", "finished"),
    [
        ({"outcome": "finished"}, 0.0),
        ({"outcome": "pruned"}, 1.0),
        ({"outcome": "pruned", "constraints": {"finished": 0.75}}, 0.75),
    ],
)
def test_with_several_objectives_an_early_stop_breaks_the_constraint_finished(
    told: dict[str, Any], finished: float, end: Callable[..., tuple[TrialRecord, FrozenTrial]]
) -> None:
    record, trial = end(TWO, values=[1.0, 2.0], **told)
    assert trial.constraints == record.constraints == {"finished": finished}


def test_constraints_decide_whether_a_finished_trial_is_feasible(
    end: Callable[..., tuple[TrialRecord, FrozenTrial]],
) -> None:
    for value, feasible in ((-1.0, True), (0.0, True), (0.5, False)):
        told = {"declared": ("vram",), "constraints": {"vram": value}}
        record, trial = end(ONE, "finished", [1.0], **told)
        assert record.feasible is feasible
        assert trial.constraints == {"vram": value}


@pytest.mark.parametrize(
    ("constraints", "reason"),
    [({}, "vram is missing"), ({"vram": NAN}, "vram is nan"), ({"vram": None}, "vram is missing")],
)
def test_a_finished_trial_without_its_constraints_diverged(
    constraints: Any, reason: str, end: Callable[..., tuple[TrialRecord, FrozenTrial]]
) -> None:
    record, _ = end(ONE, "finished", [1.0], declared=("vram",), constraints=constraints)
    assert (record.outcome, record.reason) == ("diverged", reason)


@pytest.mark.parametrize(
    ("told", "message"),
    [
        (("won", [1.0]), r"outcome must be one of finished, pruned, diverged, error, got 'won'"),
        (("finished", [1.0, 2.0]), r"values must be one an objective \(fd\), got 2"),
        (
            ("finished", [1.0], None, {"ram": 1.0}),
            r"constraints must be among those declared \(vram\), got 'ram'",
        ),
        (
            ("pruned", [1.0], None, {"finished": 0.0}),
            r"constraints.finished must be > 0 for a pruned trial, got 0.0",
        ),
    ],
)
def test_what_cannot_be_told_is_refused_and_the_trial_runs_on(
    told: tuple[Any, ...], message: str, make: Make, line: Space
) -> None:
    study = make("random", "fd", constraints=["vram"])
    study.ask(line)
    with pytest.raises(UserError, match=message):
        study.tell(0, *told)
    assert study.trials()[0].outcome is None


def test_a_trial_told_the_same_again_stays_and_told_otherwise_is_an_error(
    make: Make, line: Space
) -> None:
    study = make()
    study.ask(line)
    for _ in range(2):
        study.tell(0, "finished", [1.0])
    assert study.trials()[0].values == (1.0,)
    with pytest.raises(StepsearchError, match=r"trial 0 must end once, as finished with \(1.0,\)"):
        study.tell(0, "error", reason="lost")
    assert study.trials()[0].outcome == "finished"


def test_only_a_trial_that_was_asked_for_can_be_told(make: Make, line: Space) -> None:
    study = make()
    study.enqueue({"x": 0.5})
    with pytest.raises(UserError, match=r"trial must be in 0..0, got 3"):
        study.tell(3, "finished", [1.0])
    with pytest.raises(StepsearchError, match=r"trial 0 must be running, it is waiting"):
        study.tell(0, "finished", [1.0])
    study.ask(line)
    study.tell(0, "finished", [1.0])
    with pytest.raises(StepsearchError, match=r"trial 0 must be running, it is complete"):
        study.report(0, 100, 1.0)


def test_a_trial_ended_by_another_program_is_an_error_in_our_record(
    make: Make, line: Space, tmp_path: Path
) -> None:
    study = make()
    study.ask(line)
    url = f"sqlite:///{tmp_path / 'study.db'}"
    optuna.load_study(study_name=study.name, storage=url).tell(0, state=FAIL)
    [record] = study.trials()
    assert (record.outcome, record.reason) == ("error", "ended by another program")


@pytest.mark.parametrize(("objectives", "state"), [(ONE, PRUNED), (TWO, FAIL)])
def test_an_error_that_others_would_meet_as_well_breaks_a_constraint(
    objectives: tuple[str, ...], state: TrialState, end: Callable[..., Any]
) -> None:
    record, trial = end(
        objectives, "error", None, "out of memory", declared=(), constraints={"memory": 1.0}
    )
    assert trial.state is state
    assert (record.outcome, record.values, record.reason) == ("error", None, "out of memory")
    assert record.constraints == {"memory": 1.0}
    assert not record.feasible


def errors_of_tpe(study: Study, space: Space, constraints: dict[str, float]) -> int:
    """How many of 40 trials fail where half of the line is out of bounds, beside the optimum."""
    for _ in range(40):
        proposal = study.ask(space)
        assert proposal is not None
        x = proposal.params["x"]
        if x > 0.5:
            study.tell(proposal.number, "error", reason="memory", constraints=constraints)
        else:
            study.tell(proposal.number, "finished", [(x - 0.4) ** 2])
    return [record.outcome for record in study.trials()].count("error")


def test_tpe_learns_where_the_memory_does_not_suffice(make: Make, line: Space) -> None:
    learnt = errors_of_tpe(make("tpe", "fd"), line, {"memory": 1.0})
    ignored = errors_of_tpe(make("tpe", "fd", name="other"), line, {})
    assert learnt < ignored
