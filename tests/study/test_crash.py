"""A driver that is killed, at the worst moments, and the one that goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from stepsearch.study import Space, Study

DRIVER = """
import os, signal, sys
from stepsearch.study import Objective, RandomConfig, Study

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

def space(trial):
    x = trial.suggest_float("x", 0, 1)
    return {"x": x}

def deadly(trial):
    space(trial)
    die()

objectives = [Objective(name) for name in sys.argv[3].split(",")]
study = Study.create(sys.argv[1], "search", objectives, RandomConfig(), 0)
study.enqueue({"x": 0.25}, label="first")
study.enqueue({"x": 0.5}, label="second")
study.ask(space)
study.tell(0, "finished", [1.0] * len(objectives))
if sys.argv[2] == "mid-ask":
    study._check_fixed = lambda *_: None
    study.ask(deadly)
study.ask(space)
study.report(1, 100, 3.0)
if sys.argv[2] == "mid-tell":
    study._study.tell = die
    study.tell(1, "pruned", [2.0] * len(objectives), "asha")
die()
"""


def killed(tmp_path: Path, moment: str, *objectives: str) -> Path:
    """The storage that a driver left which was killed at `moment`, in its second trial."""
    storage = tmp_path / "study.db"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", DRIVER, str(storage), moment, ",".join(objectives)]
    assert subprocess.run(command, env=environment, check=False).returncode == -signal.SIGKILL
    return storage


def go_on(study: Study, line: Space) -> None:
    """One more trial of its own; then each number is there once, and all are told."""
    proposal = study.ask(line)
    assert proposal is not None
    study.tell(proposal.number, "error", reason="enough")
    assert study.unfinished() == []
    assert [t.number for t in study.trials()] == [0, 1, 2]
    assert study.waiting() == 0


def test_a_trial_between_ask_and_tell_is_resumed_under_its_number(
    tmp_path: Path, line: Space
) -> None:
    with Study.open(killed(tmp_path, "after-ask", "fd"), "search") as study:
        [proposal] = study.unfinished()
        assert (proposal.number, proposal.params, proposal.values) == (1, {"x": 0.5}, {"x": 0.5})
        assert proposal.attrs == {"label": "second"}
        study.report(1, 100, 3.0)
        study.report(1, 200, 2.0)
        study.tell(1, "finished", [2.0])
        assert study.trials()[1].intermediate == {100: 3.0, 200: 2.0}
        go_on(study, line)


def test_a_fixed_point_is_not_lost_when_the_driver_dies_while_asking(
    tmp_path: Path, line: Space
) -> None:
    with Study.open(killed(tmp_path, "mid-ask", "fd"), "search") as study:
        assert study.unfinished() == []  # nobody has been handed it
        proposal = study.ask(line)
        assert proposal is not None
        assert (proposal.number, proposal.params) == (1, {"x": 0.5})
        assert proposal.attrs == {"label": "second"}
        study.tell(1, "finished", [2.0])
        go_on(study, line)


@pytest.mark.parametrize("objectives", [("fd",), ("fd", "kid")])
def test_a_tell_that_was_cut_short_is_completed_by_open(
    objectives: tuple[str, ...], tmp_path: Path, line: Space
) -> None:
    with Study.open(killed(tmp_path, "mid-tell", *objectives), "search") as study:
        assert study.unfinished() == []
        record = study.trials()[1]
        assert (record.outcome, record.reason) == ("pruned", "asha")
        assert record.values == ((3.0,) if len(objectives) == 1 else (2.0, 2.0))
        assert record.constraints == ({} if len(objectives) == 1 else {"finished": 1.0})
        study.tell(1, "pruned", [2.0] * len(objectives), "asha")
        go_on(study, line)
