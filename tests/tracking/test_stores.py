"""The stores that MLflow keeps its runs in, each on a bad day."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from stepsearch.errors import UserError
from stepsearch.tracking import HeldTrial, Run, Tracker, TrackingConfig, held_trials
from stepsearch.tracking.backlog import Unsent
from stepsearch.tracking.client import connect

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

Open = Callable[..., Tracker]


def log_steps(tracker: Tracker, run: Run, steps: Iterable[int]) -> None:
    for step in steps:
        tracker.log(run, {"fd_digits": 1 / (step + 1)}, step)


def test_a_locked_sqlite_file_holds_up_nobody_and_misses_nothing(
    open_tracker: Open, storage: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracker = open_tracker()
    tracker.start_search("digits", {})
    run = tracker.start_trial(0, "000", {})
    log_steps(tracker, run, range(10))
    assert tracker.flush()
    with closing(sqlite3.connect(storage / "mlflow.db", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        log_steps(tracker, run, range(10, 50))
        assert tracker.close(timeout=0) == Unsent(waiting=40)
        resumed = open_tracker(resumed=True)
        resumed.start_search("digits", {})
        log_steps(resumed, resumed.start_trial(0, "000", {}), range(50, 60))
        assert not resumed.flush(timeout=1)
        other.execute("ROLLBACK")
    resumed.end_trial(run, "finished")
    assert resumed.flush(timeout=60)
    held = held_trials(TrackingConfig(), storage, search_id="digits-1", metric="fd_digits")
    assert held == {0: HeldTrial("FINISHED", "finished", tuple(range(60)), runs=1)}


def test_a_postgresql_server_may_restart(
    postgres: Any, postgres_uri: str, open_tracker: Open, storage: Path
) -> None:
    tracker = open_tracker(postgres_uri)
    tracker.start_search("digits", {})
    run = tracker.start_trial(0, "000", {})
    log_steps(tracker, run, range(10))
    assert tracker.flush()
    postgres.stop()
    log_steps(tracker, run, range(10, 20))
    assert not tracker.flush(timeout=1)
    postgres.start()
    log_steps(tracker, run, range(20, 30))
    assert tracker.flush(timeout=60)
    postgres.stop()  # between two records: the next one finds a dead connection
    postgres.start()
    log_steps(tracker, run, range(30, 40))
    tracker.end_trial(run, "finished")
    assert tracker.flush(timeout=60)
    postgres.stop()
    log_steps(tracker, tracker.start_trial(1, "001", {}), range(10))
    assert tracker.close(timeout=1).lost == 0
    resumed = open_tracker(postgres_uri, resumed=True)
    postgres.start()
    assert resumed.close(timeout=60) == Unsent()

    config = TrackingConfig(uri=postgres_uri)
    held = held_trials(config, storage, search_id="digits-1", metric="fd_digits")
    assert held == {
        0: HeldTrial("FINISHED", "finished", tuple(range(40)), runs=1),
        1: HeldTrial("RUNNING", "running", tuple(range(10)), runs=1),
    }


def test_a_value_that_the_database_cannot_hold_costs_only_itself(
    postgres_uri: str, open_tracker: Open, storage: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MLflow says of it what it says of a database that restarts; it is asked several times."""
    monkeypatch.setattr("stepsearch.tracking.writer.LONGEST_PAUSE", 0.2)
    tracker = open_tracker(postgres_uri, search_id="nul")
    tracker.start_search("nul", {})
    run = tracker.start_trial(0, "000", {})
    tracker.set_tags(run, {"label": "a\0b"})
    log_steps(tracker, run, range(10))
    tracker.end_trial(run, "finished")
    assert tracker.close(timeout=30) == Unsent(lost=1)
    config = TrackingConfig(uri=postgres_uri)
    held = held_trials(config, storage, search_id="nul", metric="fd_digits")
    assert held == {0: HeldTrial("FINISHED", "finished", tuple(range(10)), runs=1)}


def test_a_server_that_asks_for_a_password_gets_records_files_and_configurations(
    open_tracker: Open,
    storage: Path,
    server_with_password: Any,
    password: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    uri = server_with_password.uri
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "admin")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "not the password")
    for resumed in (False, True):
        with pytest.raises(UserError, match=r"tracking\.uri must answer, got .*401") as caught:
            open_tracker(uri, resumed=resumed)
        assert "\n" not in str(caught.value)
        assert "not the password" not in str(caught.value)

    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", password)
    tracker = open_tracker(uri)
    tracker.start_search("digits", {"budget": 1}, config={"name": "digits"})
    run = tracker.start_trial(0, "000", {"tau": 1}, config={"tau": 1})
    log_steps(tracker, run, range(3))
    (storage / "pictures").mkdir()
    (storage / "pictures" / "samples.png").write_bytes(os.urandom(100_000))
    tracker.log_artifacts(run, storage / "pictures", "pictures")
    tracker.end_trial(run, "finished")
    tracker.end_search()
    assert tracker.close() == Unsent()

    held = held_trials(TrackingConfig(uri=uri), storage, search_id="digits-1", metric="fd_digits")
    assert held == {0: HeldTrial("FINISHED", "finished", (0, 1, 2), runs=1)}
    client = connect(uri)
    [experiment] = client.search_experiments(filter_string="name = 'stepsearch/speed'")
    parent, child = client.search_runs(
        [experiment.experiment_id], order_by=["attributes.start_time ASC"]
    )
    assert child.info.artifact_uri.startswith("mlflow-artifacts:")
    assert [file.path for file in client.list_artifacts(parent.info.run_id)] == ["config.yaml"]
    picture = client.download_artifacts(child.info.run_id, "pictures/samples.png", str(storage))
    sent = (storage / "pictures" / "samples.png").read_bytes()
    assert Path(picture).read_bytes() == sent
