"""The file of all reports: each line whole, each report once."""

from __future__ import annotations

import resource
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from stepsearch.search.history import History


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A history with one report, and half of another one that a killed driver was writing."""
    path = tmp_path / "history.jsonl"
    History(path).add(0, 100, {"fd": 1.0})
    path.write_text(path.read_text() + '{"trial": 0, "images_se')
    return path


def test_a_line_cut_short_by_a_kill_is_dropped_and_written_again(path: Path) -> None:
    again = History(path)
    assert again.curve(0, "fd") == {100: 1.0}
    assert again.add(0, 200, {"fd": 0.5})
    assert not again.add(0, 200, {"fd": 0.5}), "each report is recorded once"
    assert History(path).curve(0, "fd") == {100: 1.0, 200: 0.5}


def test_who_only_reads_changes_nothing(path: Path) -> None:
    """The half line may be one that a running driver is just writing."""
    before = path.read_bytes()
    History(path).curve(0, "fd")
    assert path.read_bytes() == before


@pytest.fixture
def full_disk(path: Path) -> Iterator[None]:
    """No file of this process may become longer than ten bytes more than the history has."""
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 10, old[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, old)
    signal.signal(signal.SIGXFSZ, ignored)


def test_a_report_that_did_not_fit_on_the_disk_can_be_recorded_later(
    path: Path, full_disk: None
) -> None:
    history = History(path)
    with pytest.raises(OSError, match="File too large"):
        history.add(0, 200, {"fd": 0.123456789, "kid": 0.987654321})
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    assert history.add(0, 200, {"fd": 0.5})
    assert History(path).curve(0, "fd") == {100: 1.0, 200: 0.5}
