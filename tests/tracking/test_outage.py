from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

import pytest

from stepsearch.tracking import Tracker
from stepsearch.tracking.backlog import Backlog
from stepsearch.tracking.client import connect
from stepsearch.tracking.records import End, Metrics, Record, Run, Start, Text
from stepsearch.tracking.writer import Writer

pytestmark = pytest.mark.timeout(180)


@pytest.mark.slow
def test_a_server_that_is_killed_and_started_again_misses_and_repeats_nothing(
    server: Any, open_tracker: Callable[..., Tracker], caplog: pytest.LogCaptureFixture
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
        assert tracker.close(timeout=60) == 0
    assert "the search goes on" in caplog.text
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
def test_closing_while_the_server_is_away_says_what_is_lost(
    server: Any, open_tracker: Callable[..., Tracker]
) -> None:
    tracker = open_tracker(server.uri, search_id="lost", family="lost")
    tracker.start_search("lost", {})
    assert tracker.flush()
    server.kill()
    run = tracker.start_trial(0, "000", {})
    for step in range(5):
        tracker.log(run, {"loss": 1.0}, step)
    tracker.end_search("interrupted")
    assert tracker.close(timeout=1) == 8  # a start, five steps, two ends
    server.start()


RUN, OTHER = Run("search", 0), Run("search", 1)


def metrics(run: Run, step: int) -> Metrics:
    return Metrics(run, 0, step, {"loss": 1.0})


def test_neighbouring_metrics_of_a_run_leave_as_one_batch() -> None:
    backlog = Backlog()
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


def test_a_record_is_sent_again_until_it_arrives() -> None:
    sent: list[Record] = []
    attempts = 0

    def send(batch: list[Record]) -> None:
        nonlocal attempts
        attempts += 1
        if attempts < 3:
            raise ConnectionRefusedError(111, "Connection refused")
        sent.extend(batch)

    writer = Writer(send)
    for step in range(3):
        writer.put(metrics(RUN, step))
    assert writer.close(timeout=20) == 0
    assert sent == [metrics(RUN, step) for step in range(3)]


def test_closing_waits_longer_than_its_timeout_as_long_as_records_arrive() -> None:
    arrived: list[Record] = []

    def send(batch: list[Record]) -> None:
        time.sleep(0.2)
        arrived.extend(batch)

    writer = Writer(send)
    for number in range(10):
        writer.put(Text(Run("slow", number), "", "config.yaml"))
    assert writer.close(timeout=1) == 0
    assert len(arrived) == 10


def test_a_broken_file_store_does_not_hold_up_metrics() -> None:
    sent: list[Record] = []

    def send(batch: list[Record]) -> None:
        if isinstance(batch[0], Text):
            raise PermissionError(13, "Permission denied")
        sent.extend(batch)

    writer = Writer(send)
    for record in (Text(RUN, "", "config.yaml"), metrics(RUN, 1), End(RUN, 0, "finished")):
        writer.put(record)
    assert writer.close(timeout=2) == 1
    assert sent == [metrics(RUN, 1), End(RUN, 0, "finished")]
