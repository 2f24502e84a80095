from __future__ import annotations

import logging
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from stepsearch.errors import UserError
from stepsearch.tracking import HeldTrial, Outcome, Tracker, TrackingConfig, held_trials
from stepsearch.tracking.backlog import Unsent

Open = Callable[..., Tracker]


def trials(client: Any) -> dict[str, Any]:
    """The trials' runs by their number."""
    ids = [experiment.experiment_id for experiment in client.search_experiments()]
    runs = client.search_runs(ids, "tags.role != 'search'")
    return {run.data.tags["stepsearch.trial"]: run for run in runs}


def history(client: Any, run: Any, key: str) -> list[tuple[int, float]]:
    return [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, key)]


def test_a_search_is_a_parent_run_and_a_trial_is_its_child(tracker: Tracker, client: Any) -> None:
    run = tracker.start_trial(0, "000 uniform", {}, role="baseline")
    tracker.end_trial(run, "finished")
    tracker.end_search()
    assert tracker.flush()

    experiment = client.get_experiment_by_name("stepsearch/speed")
    parent, child = client.search_runs(
        [experiment.experiment_id], order_by=["attributes.start_time ASC"]
    )
    assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert (parent.info.run_name, child.info.run_name) == ("digits", "000 uniform")
    assert (parent.data.tags["role"], child.data.tags["role"]) == ("search", "baseline")
    assert parent.data.params == {"budget": "40000"}
    assert parent.info.status == child.info.status == "FINISHED"
    assert "fd_digits" in parent.data.tags["mlflow.note.content"]


@pytest.mark.parametrize(
    ("outcome", "status"),
    [
        ("finished", "FINISHED"),
        ("pruned", "KILLED"),
        ("diverged", "FAILED"),
        ("error", "FAILED"),
        ("interrupted", "KILLED"),
    ],
)
def test_every_outcome_has_its_status(
    outcome: Outcome, status: str, tracker: Tracker, client: Any
) -> None:
    """The design's table of states, column MLflow."""
    tracker.end_trial(tracker.start_trial(3, "003", {}), outcome, "why")
    assert tracker.flush()
    run = trials(client)["3"]
    assert run.info.status == status
    assert run.data.tags["outcome"] == outcome
    assert run.data.tags["reason"] == "why"


def test_a_running_trial_is_shown_as_running(tracker: Tracker, client: Any) -> None:
    tracker.start_trial(0, "000", {})
    assert tracker.flush()
    assert trials(client)["0"].info.status == "RUNNING"
    assert trials(client)["0"].data.tags["outcome"] == "running"


def test_everything_logged_arrives_in_order(tracker: Tracker, client: Any, tmp_path: Path) -> None:
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "p.txt").write_text("density")
    (tmp_path / "samples.txt").write_text("samples")
    config = {"strategy": {"kind": "speed", "tau": 612}}
    run = tracker.start_trial(2, "002", {"tau": 612, "lam": 0.123456789}, config=config)
    for step in range(100, 600, 100):
        tracker.log(run, {"loss": 1 / step, "lr": 4e-3}, step)
    tracker.log_artifacts(run, tmp_path / "samples.txt")
    tracker.log_artifacts(run, tmp_path / "figures", "figures")
    tracker.log_text(run, "notes", "notes/readme.txt")
    tracker.set_tags(run, {"seed": "7"})
    assert tracker.flush()

    logged = trials(client)["2"]
    assert history(client, logged, "loss") == [(s, 1 / s) for s in range(100, 600, 100)]
    assert logged.data.params == {"tau": "612", "lam": "0.123457"}
    assert logged.data.tags["seed"] == "7"
    root = Path(logged.info.artifact_uri)
    assert yaml.safe_load((root / "config.yaml").read_text()) == config
    assert (root / "figures" / "p.txt").read_text() == "density"
    assert (root / "samples.txt").read_text() == "samples"
    assert (root / "notes" / "readme.txt").read_text() == "notes"


def test_values_without_a_place_in_a_chart_are_left_out(tracker: Tracker, client: Any) -> None:
    run = tracker.start_trial(0, "000", {})
    tracker.log(run, {"loss": math.nan, "grad_norm": math.inf, "lr": 0.1}, 10)
    assert tracker.flush()
    assert trials(client)["0"].data.metrics == {"lr": 0.1}


def test_a_resumed_trial_goes_on_in_its_run_and_logs_no_step_twice(
    open_tracker: Open, client: Any
) -> None:
    first = open_tracker()
    first.start_search("digits", {"budget": 40_000})
    run = first.start_trial(1, "001", {"tau": 700})
    for step in (100, 200, 300):
        first.log(run, {"loss": 1.0 / step}, step)
    first.log(run, {"fd_digits": 9.0}, 200)
    first.end_trial(run, "error", "out of memory")
    assert first.close() == Unsent()

    second = open_tracker()
    second.start_search("digits", {"budget": 40_000})
    run = second.start_trial(1, "001", {"tau": 700})
    for step in (200, 300, 400):  # from the checkpoint at 100
        second.log(run, {"loss": -1.0}, step)
    second.log(run, {"fd_digits": 8.0}, 400)
    assert second.flush()
    assert trials(client)["1"].info.status == "RUNNING"
    assert "reason" not in trials(client)["1"].data.tags
    second.end_trial(run, "finished")
    assert second.flush()

    (logged,) = trials(client).values()
    losses = history(client, logged, "loss")
    assert losses == [(100, 1 / 100), (200, 1 / 200), (300, 1 / 300), (400, -1.0)]
    assert history(client, logged, "fd_digits") == [(200, 9.0), (400, 8.0)]
    assert logged.info.status == "FINISHED"


def test_a_repeated_step_in_one_process_is_logged_once(tracker: Tracker, client: Any) -> None:
    run = tracker.start_trial(0, "000", {})
    for step in (10, 20, 10, 20, 30):  # a trial that was retried in the same process
        tracker.log(run, {"loss": 1.0}, step)
    assert tracker.flush()
    assert [step for step, _ in history(client, trials(client)["0"], "loss")] == [10, 20, 30]


def test_a_step_that_comes_again_after_the_end_is_logged_once(
    tracker: Tracker, client: Any
) -> None:
    run = tracker.start_trial(0, "000", {})
    tracker.log(run, {"loss": 1.0}, 10)
    tracker.end_trial(run, "finished")
    assert tracker.flush()
    for step in (10, 20):
        tracker.log(run, {"loss": 1.0}, step)
    assert tracker.flush()
    assert [step for step, _ in history(client, trials(client)["0"], "loss")] == [10, 20]


def test_two_searches_share_an_experiment_but_no_runs(open_tracker: Open, client: Any) -> None:
    for search_id in ("one", "two"):
        tracker = open_tracker(search_id=search_id)
        tracker.start_search(search_id, {})
        tracker.start_trial(0, "000", {})
        assert tracker.flush()
    experiment = client.get_experiment_by_name("stepsearch/speed")
    assert len(client.search_runs([experiment.experiment_id])) == 4


def test_a_reader_sees_what_mlflow_holds_of_each_trial(
    open_tracker: Open, client: Any, storage: Path
) -> None:
    tracker = open_tracker()
    tracker.start_search("digits", {})
    runs = {number: tracker.start_trial(number, f"{number:03d}", {}) for number in (2, 10, 1)}
    for step in (100, 200):
        tracker.log(runs[2], {"fd_digits": 1.0, "loss": 1.0}, step)
    tracker.end_trial(runs[2], "pruned")
    other = open_tracker(search_id="other")
    other.start_search("other", {})
    other.start_trial(3, "003", {})
    assert tracker.flush()
    assert other.flush()
    twin = trials(client)["10"]
    client.create_run(twin.info.experiment_id, tags=twin.data.tags)

    held = held_trials(TrackingConfig(), storage, search_id="digits-1", metric="fd_digits")
    assert held == {
        1: HeldTrial("RUNNING", "running", steps=(), runs=1),
        2: HeldTrial("KILLED", "pruned", steps=(100, 200), runs=1),
        10: HeldTrial("RUNNING", "running", steps=(), runs=2),
    }
    nowhere = TrackingConfig(uri="http://127.0.0.1:9")
    with pytest.raises(UserError, match=r"tracking\.uri must answer"):
        held_trials(nowhere, storage, search_id="digits-1", metric="fd_digits")


def test_the_end_of_a_search_interrupts_what_runs(tracker: Tracker, client: Any) -> None:
    tracker.end_trial(tracker.start_trial(0, "000", {}), "finished")
    tracker.start_trial(1, "001", {})
    tracker.end_search("interrupted")
    assert tracker.flush()
    outcomes = {number: run.data.tags["outcome"] for number, run in trials(client).items()}
    assert outcomes == {"0": "finished", "1": "interrupted"}


def test_what_mlflow_refuses_is_counted_and_holds_up_nothing(
    open_tracker: Open, client: Any, caplog: pytest.LogCaptureFixture
) -> None:
    tracker = open_tracker()
    tracker.start_search("digits", {})
    run = tracker.start_trial(0, "000", {})
    tracker.log_artifacts(run, Path("/no/such/file"))
    tracker.log(run, {"loss": 1.0}, 10)
    with caplog.at_level(logging.WARNING):
        assert tracker.close() == Unsent(lost=1)
    assert "MLflow refused the artifacts of trial 0: No such file" in caplog.text
    assert history(client, trials(client)["0"], "loss") == [(10, 1.0)]


def test_a_changed_parameter_costs_only_itself(open_tracker: Open, client: Any) -> None:
    """MLflow never changes a parameter; the run's metrics must not be lost with it."""
    for tau in (700, 800):
        tracker = open_tracker()
        tracker.start_search("digits", {})
        run = tracker.start_trial(0, "000", {"tau": tau})
        tracker.log(run, {"loss": 1.0}, tau)
        assert tracker.close() == Unsent(lost=int(tau == 800))
    assert trials(client)["0"].data.params == {"tau": "700"}
    assert [step for step, _ in history(client, trials(client)["0"], "loss")] == [700, 800]


@pytest.mark.parametrize(
    ("uri", "why"),
    [
        ("http://127.0.0.1:9", "Connection refused"),
        ("sqlite:////proc/no/such/mlflow.db", "No such file or directory"),
        ("postgresql://127.0.0.1:9/db", ""),  # refused, or no driver installed
    ],
)
@pytest.mark.timeout(60)
def test_a_uri_that_does_not_answer_is_a_user_error(
    uri: str, why: str, open_tracker: Open, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UserError) as caught:
        open_tracker(uri)
    assert str(caught.value).startswith(f"tracking.uri must answer, got '{uri}': ")
    assert why in str(caught.value)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_a_deleted_experiment_is_a_user_error(open_tracker: Open, client: Any) -> None:
    client.delete_experiment(client.create_experiment("stepsearch/speed"))
    with pytest.raises(UserError, match=r"tracking\.experiment must not be deleted, got 'stepse"):
        open_tracker()


@pytest.mark.parametrize("search_id", ["", "it's", "two words"])
def test_a_search_id_must_fit_into_a_filter(search_id: str, open_tracker: Open) -> None:
    with pytest.raises(UserError, match="search_id must be letters, digits"):
        open_tracker(search_id=search_id)


def test_the_console_stays_quiet_and_mlflow_is_imported_late(tmp_path: Path) -> None:
    script = """
import sys
from pathlib import Path
from stepsearch.tracking import Tracker, TrackingConfig
assert "mlflow" not in sys.modules
where = Path(sys.argv[1])
with Tracker.open(
    TrackingConfig(),
    where,
    spool=where / "spool.jsonl",
    search_id="quiet",
    family="speed",
    metric="fd",
) as tracker:
    tracker.start_search("quiet", {"budget": 1})
    run = tracker.start_trial(0, "000", {"tau": 1}, config={"a": 1})
    tracker.log(run, {"loss": 1.0}, 1)
    tracker.end_trial(run, "finished")
    tracker.end_search()
    assert tracker.flush()
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "platform")}
    command = [sys.executable, "-W", "error::ResourceWarning", "-c", script, str(tmp_path)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, cwd=tmp_path, env=environment
    )
    assert (done.stdout, done.stderr) == ("", "")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mlartifacts", "mlflow.db"]
