"""MLflow is away, slow or broken; the driver dies meanwhile: every record arrives, once."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from stepsearch.errors import UserError
from stepsearch.tracking import Tracker, TrackingConfig, count_waiting, held_trials
from stepsearch.tracking.backlog import Backlog, Unsent
from stepsearch.tracking.client import connect
from stepsearch.tracking.records import End, Metrics, Record, Run, Start, Text
from stepsearch.tracking.writer import AWAY, Writer

pytestmark = pytest.mark.timeout(180)

Open = Callable[..., Tracker]


def steps_of(uri: str, search_id: str, metric: str = "loss") -> dict[int, list[int]]:
    """The steps that the server itself has of each trial, each of which has one run."""
    held = held_trials(TrackingConfig(uri=uri), Path(), search_id=search_id, metric=metric)
    assert all(trial.runs == 1 for trial in held.values()), held
    return {number: list(trial.steps) for number, trial in held.items()}


def log_steps(tracker: Tracker, run: Run, steps: Iterable[int]) -> None:
    for step in steps:
        tracker.log(run, {"loss": 1 / (step + 1), "lr": float(step)}, step)


@pytest.mark.slow
def test_a_server_that_is_killed_and_started_again_misses_and_repeats_nothing(
    server: Any, open_tracker: Open, caplog: pytest.LogCaptureFixture
) -> None:
    tracker = open_tracker(server.uri, search_id="outage", family="outage")
    tracker.start_search("outage", {})
    runs = [tracker.start_trial(number, f"{number:03d}", {"tau": number}) for number in range(3)]
    steps = range(100, 4100, 100)
    with caplog.at_level(logging.WARNING, "stepsearch"):
        for step in steps:
            if step == 1000:
                server.kill()
            if step == 2000:  # a trial that begins while the server is away
                runs.append(tracker.start_trial(3, "003", {"tau": 3}, config={"late": True}))
            for run in runs:
                tracker.log(run, {"loss": 1 / step, "lr": float(step)}, step)
        assert not tracker.flush(timeout=1)
        server.start()
        for run in runs:
            tracker.end_trial(run, "finished")
        tracker.end_search()
        assert tracker.close(timeout=60) == Unsent()
    assert "its records wait" in caplog.text
    assert "answers again" in caplog.text

    client = connect(server.uri)
    experiment = client.get_experiment_by_name("stepsearch/outage")
    found = client.search_runs([experiment.experiment_id], "tags.role = 'proposal'")
    assert sorted(run.data.params["tau"] for run in found) == ["0", "1", "2", "3"]
    for run in found:
        expected = [step for step in steps if run.info.run_name != "003" or step >= 2000]
        for key in ("loss", "lr"):
            logged = client.get_metric_history(run.info.run_id, key)
            assert [metric.step for metric in logged] == expected
        assert run.info.status == "FINISHED"
    late = next(run for run in found if run.info.run_name == "003")
    assert [file.path for file in client.list_artifacts(late.info.run_id)] == ["config.yaml"]


@pytest.mark.slow
def test_a_server_that_hangs_is_not_waited_for(
    server: Any, open_tracker: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped by a signal: it does what it was asked, long after the client has given up."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    tracker = open_tracker(server.uri, search_id="hangs", family="outage")
    tracker.start_search("hangs", {})
    run = tracker.start_trial(0, "000", {})
    log_steps(tracker, run, range(100))
    server.signal(signal.SIGSTOP)
    log_steps(tracker, run, range(100, 200))  # this would wait for ever
    assert not tracker.flush(timeout=3)
    server.signal(signal.SIGCONT)
    tracker.end_trial(run, "finished")
    assert tracker.flush(timeout=60)
    assert steps_of(server.uri, "hangs") == {0: list(range(200))}


@pytest.mark.slow
@pytest.mark.parametrize("how", ["broken", "page", "late"])
def test_a_server_that_answers_badly_gets_every_record_once(
    how: str, proxy: Any, server: Any, open_tracker: Open
) -> None:
    tracker = open_tracker(proxy.uri, search_id=how, family="outage")
    tracker.start_search(how, {})
    proxy.how = lambda path: how
    run = tracker.start_trial(0, "000", {"tau": 1}, config={"a": 1})
    log_steps(tracker, run, range(120))
    tracker.end_trial(run, "finished")
    while proxy.seen.count(how) < 4:
        time.sleep(0.1)
    proxy.how = lambda path: "ok"
    assert tracker.flush(timeout=60)
    assert steps_of(server.uri, how) == {0: list(range(120))}


@pytest.mark.slow
def test_a_run_that_a_slow_server_made_twice_is_there_once(
    proxy: Any, server: Any, open_tracker: Open
) -> None:
    tracker = open_tracker(proxy.uri, search_id="twins", family="outage")
    tracker.start_search("twins", {})
    creations = iter(["held"])
    proxy.how = lambda path: next(creations, "ok") if path.endswith("runs/create") else "ok"
    run = tracker.start_trial(0, "000", {})
    log_steps(tracker, run, range(10))
    assert tracker.flush(timeout=60)
    assert proxy.seen.count("held") == 1
    proxy.release.set()
    twins = {"config": TrackingConfig(uri=server.uri), "search_id": "twins", "metric": "loss"}
    while held_trials(storage=Path(), **twins)[0].runs == 1:
        time.sleep(0.1)
    tracker.end_trial(run, "finished")
    assert tracker.flush(timeout=60)
    assert steps_of(server.uri, "twins") == {0: list(range(10))}


DRIVER = """
import sys, time
from pathlib import Path
from stepsearch.tracking import Tracker, TrackingConfig
uri, spool = sys.argv[1], Path(sys.argv[2])
tracker = Tracker.open(
    TrackingConfig(uri=uri), spool.parent, spool=spool, search_id="killed", family="outage",
    metric="loss",
)
tracker.start_search("killed", {})
run = tracker.start_trial(0, "000", {"tau": 1})
for step in range(50):
    tracker.log(run, {"loss": 1.0}, step)
assert tracker.flush()
print("delivered", flush=True)
sys.stdin.readline()
for step in range(50, 150):
    tracker.log(run, {"loss": 1.0}, step)
tracker.end_trial(run, "finished")
tracker.start_trial(1, "001", {"tau": 2}, config={"tau": 2})
tracker.log_artifacts(tracker.search, spool.parent / "summary", "summary")
print("put", flush=True)
time.sleep(600)
"""


@pytest.mark.slow
def test_what_waits_when_the_driver_is_killed_is_delivered_by_the_next_one(
    server: Any, open_tracker: Open, storage: Path
) -> None:
    spool = storage / "spool.jsonl"
    (storage / "summary").mkdir()
    (storage / "summary" / "leaderboard.csv").write_text("trial\n")
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "platform")}
    command = [sys.executable, "-c", DRIVER, server.uri, str(spool)]
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, env=environment
    ) as driver:
        assert driver.stdin is not None
        assert driver.stdout is not None
        assert driver.stdout.readline() == b"delivered\n"
        server.kill()
        driver.stdin.write(b"\n")
        driver.stdin.flush()
        assert driver.stdout.readline() == b"put\n"
        driver.kill()
    with spool.open("ab") as file:
        file.write(b'{"number": 999, "kind": "Metr')  # what it was just writing
    assert count_waiting(spool) == 104  # steps, an end, a start, a configuration, a folder

    options: dict[str, Any] = {"search_id": "killed", "family": "outage", "metric": "loss"}
    with pytest.raises(UserError, match=r"tracking\.uri must answer"):
        open_tracker(server.uri, spool=spool, **options)
    second = open_tracker(server.uri, spool=spool, resumed=True, **options)
    assert second.page is None
    second.start_search("killed", {})
    log_steps(second, second.start_trial(1, "001", {"tau": 2}), range(10))
    second.end_search("interrupted")
    assert second.close(timeout=1) == Unsent(waiting=118)

    server.start()
    third = open_tracker(server.uri, spool=spool, resumed=True, **options)
    assert third.close(timeout=60) == Unsent()
    assert not spool.exists()
    assert steps_of(server.uri, "killed") == {0: list(range(150)), 1: list(range(10))}
    client = connect(server.uri)
    experiment = client.get_experiment_by_name("stepsearch/outage")
    runs = client.search_runs(
        [experiment.experiment_id],
        "tags.`stepsearch.search` = 'killed'",
        order_by=["attributes.start_time ASC"],
    )
    assert [run.info.status for run in runs] == ["KILLED", "FINISHED", "KILLED"]
    assert {run.data.tags.get("mlflow.parentRunId") for run in runs[1:]} == {runs[0].info.run_id}
    assert [file.path for file in client.list_artifacts(runs[0].info.run_id)] == ["summary"]
    assert [file.path for file in client.list_artifacts(runs[2].info.run_id)] == ["config.yaml"]


RUN, OTHER = Run("search", 0), Run("search", 1)


def metrics(run: Run, step: int) -> Metrics:
    return Metrics(run, 0, step, {"loss": 1.0})


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    return tmp_path / "spool.jsonl"


def test_neighbouring_metrics_of_a_run_leave_as_one_batch(spool: Path) -> None:
    backlog = Backlog(spool)
    start, end = Start(RUN, 0, "000"), End(RUN, 0, "finished")
    for record in (start, metrics(RUN, 1), metrics(OTHER, 1), metrics(RUN, 2), end):
        backlog.put(record)
    backlog.close()
    batches = []
    while batch := backlog.take():
        batches.append(batch)
        backlog.remove(batch)
    assert batches == [
        [start],
        [metrics(OTHER, 1)],
        [metrics(RUN, 1), metrics(RUN, 2)],
        [end],
    ]
    assert len(backlog) == 0
    assert backlog.abandon() == Unsent()


def test_a_record_is_sent_again_until_it_arrives(spool: Path) -> None:
    sent: list[Record] = []
    attempts = 0

    def send(batch: list[Record]) -> None:
        nonlocal attempts
        attempts += 1
        if attempts < 3:
            raise ConnectionRefusedError(111, "Connection refused")
        sent.extend(batch)

    writer = Writer(send, spool)
    for step in range(3):
        writer.put(metrics(RUN, step))
    assert writer.close(timeout=20) == Unsent()
    assert sent == [metrics(RUN, step) for step in range(3)]


def test_a_trial_waits_for_the_start_of_its_search(spool: Path) -> None:
    sent: list[Record] = []
    failures = iter([ConnectionRefusedError(111, "Connection refused")] * 2)
    records = [Start(Run("search"), 0, "search"), Start(RUN, 0, "000"), Start(OTHER, 0, "001")]

    def send(batch: list[Record]) -> None:
        for error in failures:
            raise error
        sent.extend(batch)

    backlog = Backlog(spool)
    for record in records:
        backlog.put(record)
    backlog.abandon()
    assert Writer(send, spool).close(timeout=20) == Unsent()
    assert sent == records


def test_a_send_that_comes_back_too_late_is_left_to_the_next_process(spool: Path) -> None:
    backlog = Backlog(spool)
    backlog.put(metrics(RUN, 1))
    batch = backlog.take()
    assert backlog.abandon() == Unsent(waiting=1)
    backlog.remove(batch)
    backlog.sync()
    assert count_waiting(spool) == 1


def test_closing_waits_longer_than_its_timeout_as_long_as_records_arrive(spool: Path) -> None:
    arrived: list[Record] = []

    def send(batch: list[Record]) -> None:
        time.sleep(0.2)
        arrived.extend(batch)

    writer = Writer(send, spool)
    for number in range(10):
        writer.put(Text(Run("slow", number), "", "config.yaml"))
    assert writer.close(timeout=1) == Unsent()
    assert len(arrived) == 10


def test_closing_asks_a_store_that_came_back_while_the_writer_paused(spool: Path) -> None:
    attempts, away, sent = 0, True, []

    def send(batch: list[Record]) -> None:
        nonlocal attempts
        attempts += 1
        if away:
            raise ConnectionRefusedError(111, "Connection refused")
        time.sleep(AWAY + 1)  # it has just started and has much to do
        sent.extend(batch)

    writer = Writer(send, spool)
    writer.put(metrics(RUN, 1))
    while attempts < 6:  # the next pause is the longest one
        time.sleep(0.01)
    away = False
    assert writer.close(timeout=60) == Unsent()
    assert sent == [metrics(RUN, 1)]


def test_closing_does_not_wait_for_a_store_that_stays_away(spool: Path) -> None:
    def send(batch: list[Record]) -> None:
        raise ConnectionRefusedError(111, "Connection refused")

    writer = Writer(send, spool)
    writer.put(metrics(RUN, 1))
    began = time.monotonic()
    assert writer.close(timeout=600) == Unsent(waiting=1)
    assert time.monotonic() - began < 60


def test_a_broken_file_store_does_not_hold_up_metrics(spool: Path) -> None:
    sent: list[Record] = []

    def send(batch: list[Record]) -> None:
        if isinstance(batch[0], Text):
            raise PermissionError(13, "Permission denied")
        sent.extend(batch)

    writer = Writer(send, spool)
    for record in (Text(RUN, "", "config.yaml"), metrics(RUN, 1), End(RUN, 0, "finished")):
        writer.put(record)
    assert writer.close(timeout=2) == Unsent(waiting=1)
    assert sent == [metrics(RUN, 1), End(RUN, 0, "finished")]
