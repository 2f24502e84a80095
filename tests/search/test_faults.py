"""What is lost when a process dies: nothing. Real processes, really killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import yaml

from stepsearch.search.config import SearchConfig
from stepsearch.search.driver import launch
from stepsearch.search.history import History
from stepsearch.search.ledger import Ledger
from stepsearch.search.result import SearchResult

pytestmark = [pytest.mark.slow]

ROOT = Path(__file__).parents[2]
Small = Callable[..., SearchConfig]
LONG = {"trials": 2, "images": 4000, "reports": 6}


def wait_for_reports(config: SearchConfig, count: int) -> None:
    """Until the search has recorded so many reports."""
    path = config.folder / "history.jsonl"
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        if path.exists() and len(path.read_text().splitlines()) >= count:
            return
        time.sleep(0.05)
    raise AssertionError(f"no {count} reports in {path}")


def kill_one(title: str) -> None:
    """SIGKILL one process of this run's own Ray cluster, by the beginning of its title."""
    for process in psutil.Process().children(recursive=True):
        if process.name() and process.cmdline()[:1] and process.cmdline()[0].startswith(title):
            process.kill()
            return
    raise AssertionError(f"no process {title}")


def check_nothing_is_lost(result: SearchResult, milestones: tuple[int, ...]) -> None:
    """Every trial is finished, once, with each milestone once and in order."""
    assert [record.outcome for record in result.records] == ["finished"] * len(result.records)
    lines = (result.folder.history).read_text().splitlines()
    assert len(lines) == len(set(lines)) == len(result.records) * len(milestones)
    for record in result.records:
        assert tuple(record.intermediate) == milestones


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize("victim", ["ray::RayTrainWorker", "ray::ResourceTrainable.train"])
def test_a_trial_survives_the_death_of_its_processes(small: Small, victim: str) -> None:
    config = small(budget=LONG, trial_scheduler={"kind": "fifo"}, retries=2)

    def assassin() -> None:
        wait_for_reports(config, 2)
        kill_one(victim)

    thread = threading.Thread(target=assassin)
    thread.start()
    result = launch(config)
    thread.join()
    check_nothing_is_lost(result, config.budget.milestones())
    undisturbed = launch(
        small(name="undisturbed", budget=LONG, trial_scheduler={"kind": "fifo"}, retries=2)
    )
    for record, other in zip(result.records, undisturbed.records, strict=True):
        assert record.values == other.values, "a resumed trial ends bit for bit the same"


@pytest.fixture
def drive(small: Small, tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts run_search.py on a small search in a process of its own."""
    started: list[subprocess.Popen[str]] = []

    def start(config: SearchConfig, *command: str) -> subprocess.Popen[str]:
        file = tmp_path / "search.yaml"
        file.write_text(yaml.safe_dump(config.model_dump(mode="json", exclude_none=True)))
        words = [sys.executable, str(ROOT / "run_search.py"), *command]
        words = [str(file) if word == "FILE" else word for word in words]
        process = subprocess.Popen(
            words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=tmp_path
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


def ray_processes_of(pid: int) -> list[psutil.Process]:
    return psutil.Process(pid).children(recursive=True)


def test_a_killed_driver_is_resumed_without_losing_a_trial(
    small: Small, drive: Callable[..., subprocess.Popen[str]]
) -> None:
    config = small(budget=LONG | {"trials": 4}, trial_scheduler={"kind": "fifo"}, cluster="local")
    driver = drive(config, "run", "FILE")
    wait_for_reports(config, 8)
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    before = len((config.folder / "history.jsonl").read_text().splitlines())
    spent = Ledger.read(config.folder / "spent.json").spent
    again = drive(config, "resume", config.name, "--storage", str(config.storage))
    output, _ = again.communicate(timeout=480)
    assert again.returncode == 0, output
    assert before >= 8
    result = SearchResult.read(config.resolved())
    check_nothing_is_lost(result, config.budget.milestones())
    assert 0 < spent["hours"] < result.ledger.spent["hours"]
    assert 0 < spent["cpu_hours"] < result.ledger.spent["cpu_hours"]


def test_ctrl_c_stops_cleanly_and_says_how_to_go_on(
    small: Small, drive: Callable[..., subprocess.Popen[str]]
) -> None:
    longer = {"trials": 2, "images": 20_000, "reports": 12}
    config = small(budget=longer, trial_scheduler={"kind": "fifo"})
    driver = drive(config, "run", "FILE")
    wait_for_reports(config, 3)
    children = ray_processes_of(driver.pid)
    driver.send_signal(signal.SIGINT)
    output, _ = driver.communicate(timeout=120)
    assert driver.returncode == 130, output
    assert f"resume {config.name}" in output
    assert "Traceback" not in output
    _, alive = psutil.wait_procs(children, timeout=20)
    assert not alive
    result = SearchResult.read(config.resolved())
    assert [record.outcome for record in result.records] == [None, None]
    assert all((result.folder.trial(n) / "checkpoint.pt").exists() for n in (0, 1))
    seen = {number: result.history.curve(number, "fd_digits") for number in (0, 1)}

    again = drive(config, "resume", config.name, "--storage", str(config.storage))
    output, _ = again.communicate(timeout=480)
    assert again.returncode == 0, output
    check_nothing_is_lost(SearchResult.read(config.resolved()), config.budget.milestones())
    history = History(config.folder / "history.jsonl")
    for number, curve in seen.items():
        assert curve.items() <= history.curve(number, "fd_digits").items()


def test_a_second_ctrl_c_stops_at_once_and_loses_nothing(
    small: Small, drive: Callable[..., subprocess.Popen[str]]
) -> None:
    config = small(budget=LONG, trial_scheduler={"kind": "fifo"})
    driver = drive(config, "run", "FILE")
    wait_for_reports(config, 3)
    children = ray_processes_of(driver.pid)
    driver.send_signal(signal.SIGINT)
    assert driver.stdout is not None
    assert any("Ctrl-C again" in line for line in driver.stdout)
    driver.send_signal(signal.SIGINT)
    output, _ = driver.communicate(timeout=60)
    assert driver.returncode == 130, output
    assert f"stopped at once; `resume {config.name}` goes on" in output.replace("\n", " ")
    assert "Traceback" not in output
    assert "Aborted" not in output
    _, alive = psutil.wait_procs(children, timeout=20)
    assert not alive

    again = drive(config, "resume", config.name, "--storage", str(config.storage))
    output, _ = again.communicate(timeout=480)
    assert again.returncode == 0, output
    check_nothing_is_lost(SearchResult.read(config.resolved()), config.budget.milestones())
