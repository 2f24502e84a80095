"""The file of the records that wait: nothing is lost, and nothing is kept too long."""

from __future__ import annotations

import logging
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from stepsearch.tracking import spool as module
from stepsearch.tracking.records import (
    Artifacts,
    End,
    Metrics,
    Record,
    Run,
    Start,
    Tags,
    Text,
)
from stepsearch.tracking.spool import Spool, count_waiting

RUN = Run("search-1", 3)


def metrics(step: int) -> Metrics:
    return Metrics(RUN, 1_700_000_000_000 + step, step, {"loss": 1 / (step + 1)})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "spool.jsonl"


@pytest.fixture
def spool(path: Path) -> Iterator[Spool]:
    with closing(Spool(path)) as spool:
        yield spool


def waiting(path: Path) -> list[Record]:
    """What the next process finds."""
    with closing(Spool(path)) as spool:
        return list(spool.waiting.values())


def test_every_kind_of_record_comes_back_as_it_was(path: Path, spool: Spool) -> None:
    records: list[Record] = [
        Start(RUN, 1, "003 ümlaut\n", {"tau": "612"}, {"role": "proposal"}),
        metrics(100),
        Tags(Run("search-1"), {"a": "\udc80 \u2028"}),
        Artifacts(RUN, path.parent / "trials" / "003", "pictures"),
        Artifacts(RUN, Path("/elsewhere/file")),
        Text(RUN, "kind: speed\n", "config.yaml"),
        End(RUN, 2, "error", 'out of "memory"'),
    ]
    for record in records:
        spool.add(record)
    assert waiting(path) == records


def test_a_search_may_be_moved_with_its_files(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    with closing(Spool(here / "spool.jsonl")) as spool:
        spool.add(Artifacts(RUN, here / "summary", "summary"))
    here.rename(there)
    assert waiting(there / "spool.jsonl") == [Artifacts(RUN, there / "summary", "summary")]


def test_a_killed_process_leaves_every_record_that_it_put(path: Path) -> None:
    script = """
import sys, time
from pathlib import Path
from stepsearch.tracking.records import Metrics, Run
from stepsearch.tracking.spool import Spool
spool = Spool(Path(sys.argv[1]))
numbers = [spool.add(Metrics(Run("search-1", 3), 0, step, {"loss": 1.0})) for step in range(300)]
spool.remove(numbers[:100])
print("put", flush=True)
time.sleep(600)
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "platform")}
    command = [sys.executable, "-c", script, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"put\n"
        process.send_signal(signal.SIGKILL)
    assert count_waiting(path) == 200
    assert [r.step for r in waiting(path) if isinstance(r, Metrics)] == list(range(100, 300))


def test_half_a_line_is_dropped_and_those_before_are_kept(path: Path, spool: Spool) -> None:
    spool.add(metrics(1))
    whole = path.read_bytes()
    path.write_bytes(whole + whole[:30])  # the process died here
    assert count_waiting(path) == 1
    with closing(Spool(path)) as again:
        again.add(metrics(2))
    assert waiting(path) == [metrics(1), metrics(2)]


def test_a_damaged_line_costs_only_itself(
    path: Path, spool: Spool, caplog: pytest.LogCaptureFixture
) -> None:
    for step in range(3):
        spool.add(metrics(step))
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + bytes(len(lines[1]) - 1) + b"\n" + lines[2])  # a power cut
    with caplog.at_level(logging.WARNING, "stepsearch"):
        assert waiting(path) == [metrics(0), metrics(2)]
    assert "1 lines in" in caplog.text


@pytest.mark.parametrize(
    "line",
    [
        '"a number"',
        "[" * 100_000,
        '{"removed": 3}',
        '{"removed": [[]]}',
        '{"number": "3", "kind": "Tags", "run": ["a", 1], "tags": {}}',
        '{"number": 3, "kind": [], "run": ["a", 1], "tags": {}}',
        '{"number": 3, "kind": "Tags", "run": [[], 1], "tags": {}}',
        '{"number": 3, "kind": "Tags", "run": ["a"], "tags": {}}',
        '{"number": 3, "kind": "Tags", "run": ["a", 1], "tags": {"a": 1}}',
    ],
)
def test_a_line_that_is_no_record_costs_only_itself(
    path: Path, spool: Spool, line: str, caplog: pytest.LogCaptureFixture
) -> None:
    spool.add(metrics(0))
    with path.open("a") as file:
        file.write(line + "\n")
    with caplog.at_level(logging.WARNING, "stepsearch"):
        assert waiting(path) == [metrics(0)]
    assert "1 lines in" in caplog.text


def test_the_file_is_empty_when_nothing_waits_and_goes_at_the_end(
    path: Path, spool: Spool
) -> None:
    spool.remove([spool.add(metrics(step)) for step in range(10)])
    assert path.stat().st_size == 0
    spool.close()
    assert not path.exists()


def test_the_file_does_not_grow_with_what_is_delivered(path: Path, spool: Spool) -> None:
    """One record always waits, so that the file is never empty."""
    sizes = []
    newest = spool.add(metrics(0))
    for step in range(1, 3 * module.MAX_SPENT):
        oldest, newest = newest, spool.add(metrics(step))
        spool.remove([oldest])
        sizes.append(path.stat().st_size)
    assert max(sizes) < sizes[0] * module.MAX_SPENT
    assert waiting(path) == [metrics(3 * module.MAX_SPENT - 1)]
    assert list(path.parent.iterdir()) == [path]


def test_a_process_that_died_while_it_wrote_the_file_anew_did_no_harm(
    path: Path, spool: Spool
) -> None:
    spool.add(metrics(1))
    part = path.with_name(f".{path.name}.part")
    part.write_bytes(path.read_bytes()[:20])
    assert waiting(path) == [metrics(1)]
    assert not part.exists()


@contextmanager
def full_disk() -> Iterator[None]:
    """No file of this process may become longer than 1000 bytes, that of pytest's output included:
    it is for the test's body alone."""
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, old[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
        signal.signal(signal.SIGXFSZ, ignored)


def test_what_does_not_fit_on_the_disk_stays_in_memory_until_it_does(
    path: Path, spool: Spool, caplog: pytest.LogCaptureFixture
) -> None:
    with full_disk(), caplog.at_level(logging.WARNING, "stepsearch"):
        numbers = [spool.add(metrics(step)) for step in range(20)]
        spool.remove(numbers[:1])
    assert len(caplog.records) == 1
    assert "records for MLflow stay in memory only: " in caplog.text
    on_disk = count_waiting(path)
    assert 0 < on_disk < 20
    assert path.read_bytes().endswith(b"\n")

    spool.add(metrics(20))
    assert spool.lost == 0
    assert waiting(path) == [metrics(step) for step in range(1, 21)]


def test_a_full_disk_is_emptied_by_what_is_delivered(path: Path, spool: Spool) -> None:
    with full_disk():
        spool.remove([spool.add(metrics(step)) for step in range(20)])
        assert (spool.lost, path.stat().st_size) == (0, 0)
        spool.add(metrics(20))
    assert waiting(path) == [metrics(20)]
