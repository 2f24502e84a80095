"""What Optuna is told of the guards when a trial ends."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from stepsearch.search.board import Board, Silent
from stepsearch.search.history import History
from stepsearch.search.recorder import Recorder
from stepsearch.study import Objective, Proposal, RandomConfig, Study


@pytest.fixture
def search(tmp_path: Path) -> Any:
    """A recorder with the baseline as trial 0 and a proposal as trial 1, both begun."""
    study = Study.create(
        None, "s", (Objective("fd"),), RandomConfig(), 0, constraints=("off_manifold",)
    )
    nothing = SimpleNamespace(
        start_trial=lambda *_, **__: None,
        log=lambda *_, **__: None,
        end_trial=lambda *_: None,
        log_artifacts=lambda *_: None,
        began=lambda *_: None,
        ended=lambda *_: None,
        keep=lambda: None,
        keep_files=lambda _: None,
        bring_trial=lambda _: None,
    )
    board = Board("s", "fd", True, 1000, 2, (250, 1000))
    history = History()
    guards = {"off_manifold": 0.02}
    recorder = Recorder(study, nothing, history, board, Silent(), guards, nothing, nothing)  # type: ignore[arg-type]
    config = SimpleNamespace(model_dump=lambda mode: {}, illustrate=lambda folder: None)
    study.enqueue({"k": 0.0}, role="baseline", label="uniform")
    for _ in range(2):
        asked = study.ask(lambda trial: {"k": trial.suggest_float("k", 0, 1)})
        assert isinstance(asked, Proposal)
        trial: Any = SimpleNamespace(number=asked.number, seed=0, config=config, folder=tmp_path)
        recorder.started(asked, trial)
    yield SimpleNamespace(recorder=recorder, study=study)
    recorder.close()


def report(search: Any, number: int, images_seen: int, off_manifold: float) -> None:
    search.recorder.reported(number, images_seen, {"fd": 1.0, "off_manifold": off_manifold})


def excess(search: Any) -> float:
    """By how much trial 1 is beyond the guard, as Optuna was told."""
    found: float = search.study.trials()[1].constraints["off_manifold"]
    return found


def test_a_finished_trial_is_not_compared_with_a_baseline_on_its_way(search: Any) -> None:
    report(search, 0, 250, 0.30)
    report(search, 1, 1000, 0.90)
    search.recorder.ended(1, "finished", None)
    assert excess(search) == 0.0


def test_a_finished_trial_is_compared_with_the_baselines_end(search: Any) -> None:
    report(search, 0, 250, 0.30)
    report(search, 0, 1000, 0.05)
    search.recorder.ended(0, "finished", None)
    report(search, 1, 1000, 0.10)
    search.recorder.ended(1, "finished", None)
    assert excess(search) == pytest.approx(0.03)


def test_a_pruned_trial_is_compared_with_the_baseline_at_the_same_images(search: Any) -> None:
    report(search, 0, 250, 0.30)
    report(search, 0, 1000, 0.05)
    report(search, 1, 250, 0.25)
    search.recorder.ended(1, "pruned", None)
    assert excess(search) == pytest.approx(-0.07)


def test_a_baseline_that_failed_binds_nobody(search: Any) -> None:
    report(search, 0, 250, 0.05)
    search.recorder.ended(0, "diverged", "loss is nan")
    report(search, 1, 250, 0.25)
    search.recorder.ended(1, "pruned", None)
    assert excess(search) == 0.0
