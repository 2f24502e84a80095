"""What is lost when a process dies: nothing. Real processes, really killed."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest
from PIL import Image

from stepsearch.search.board import Silent
from stepsearch.search.config import SearchConfig
from stepsearch.search.driver import launch
from stepsearch.search.history import History
from stepsearch.search.ledger import Ledger
from stepsearch.search.result import SearchResult
from stepsearch.tracking import HeldTrial, held_trials
from tests.search.conftest import Drive, Small, make_small, wait_for_reports

pytestmark = [pytest.mark.slow]

LONG = {"trials": 2, "images": 2000, "reports": 6}


def one_process(title: str) -> psutil.Process:
    """A process of this run's own Ray cluster, by the beginning of its title."""
    for process in psutil.Process().children(recursive=True):
        if process.name() and process.cmdline()[:1] and process.cmdline()[0].startswith(title):
            return process
    raise AssertionError(f"no process {title}")


def check_nothing_is_lost(result: SearchResult, milestones: tuple[int, ...]) -> None:
    """All records say: every trial is finished, once, with each milestone once and in order; and
    the search has left behind what it does at its end."""
    assert [record.outcome for record in result.records] == ["finished"] * len(result.records)
    lines = (result.folder.history).read_text().splitlines()
    assert len(lines) == len(set(lines)) == len(result.records) * len(milestones)
    for record in result.records:
        assert tuple(record.intermediate) == milestones
    config = result.config
    held = held_trials(
        config.tracking, config.storage, search_id=result.folder.id, metric=config.primary.name
    )
    whole = HeldTrial("FINISHED", "finished", milestones, runs=1)
    assert held == {record.number: whole for record in result.records}
    assert result.folder.is_closed(len(result.records))


@contextmanager
def after_reports(config: SearchConfig, count: int, deed: Callable[[], object]) -> Iterator[None]:
    """Do something to the search that runs in the block once it has so many reports."""

    def wait_and_do() -> None:
        wait_for_reports(config.folder, count)
        deed()

    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(wait_and_do)
        yield
        done.result()


def values_of(result: SearchResult) -> list[object]:
    return [record.values for record in result.records]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, ray_cluster: None) -> list[object]:
    """The values of a search that nobody disturbs."""
    changes = {"budget": LONG, "trial_scheduler": {"kind": "fifo"}}
    return values_of(launch(make_small(tmp_path_factory.mktemp("undisturbed"), **changes)))


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize(
    "victim", ["ray::RayTrainWorker", "ray::ResourceTrainable.train", "ray::Dispatcher"]
)
def test_a_trial_survives_the_death_of_its_processes(
    small: Small, victim: str, undisturbed: list[object]
) -> None:
    config = small(budget=LONG, trial_scheduler={"kind": "fifo"}, retries=2)

    with after_reports(config, 2, lambda: one_process(victim).kill()):
        result = launch(config)
    check_nothing_is_lost(result, config.budget.milestones())
    assert values_of(result) == undisturbed, "a resumed trial ends bit for bit the same"


class Impatient(Silent):
    """Presses Ctrl-C when the engine is about to be started again."""

    def say(self, line: str) -> None:
        if line.startswith("a part of the engine died"):
            os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.usefixtures("ray_cluster")
def test_ctrl_c_while_the_engine_is_started_again_is_heard(small: Small) -> None:
    config = small(budget=LONG, trial_scheduler={"kind": "fifo"})
    with after_reports(config, 2, lambda: one_process("ray::Dispatcher").kill()):
        result = launch(config, Impatient())
    assert result.interrupted
    assert [record.outcome for record in result.records] == [None, None], "a resume goes on"


@pytest.mark.usefixtures("ray_cluster")
def test_a_worker_that_hangs_costs_its_trial_one_attempt(small: Small) -> None:
    config = small(
        budget=LONG, trial_scheduler={"kind": "fifo"}, retries=0, watchdog_s=15, lanes={"count": 1}
    )
    with after_reports(config, 2, lambda: one_process("ray::RayTrainWorker").suspend()):
        result = launch(config)
    assert [record.outcome for record in result.records] == ["error", "finished"]
    assert result.records[0].reason == "no sign of life for 15 s"


@pytest.mark.usefixtures("ray_cluster")
def test_a_worker_that_reads_another_data_set_than_the_driver_trains_nothing(
    small: Small, tmp_path: Path
) -> None:
    for label in ("dark", "light"):
        (tmp_path / "pictures" / label).mkdir(parents=True)
        for i in range(40):
            shade = 3 * i + 130 * (label == "light")
            Image.new("L", (8, 8), shade).save(tmp_path / "pictures" / label / f"{i}.png")
    images = {"kind": "images", "path": tmp_path / "pictures", "size": 8, "channels": 1}
    config = small(
        {"dataset": images}, budget=LONG, lanes={"count": 1}, trial_scheduler={"kind": "fifo"}
    )

    def exchange_a_picture() -> None:
        Image.new("L", (8, 8), 255).save(tmp_path / "pictures" / "dark" / "0.png")
        one_process("ray::RayTrainWorker").kill()

    with after_reports(config, 2, exchange_a_picture):
        result = launch(config)
    assert [record.outcome for record in result.records] == ["error", "error"]
    for record in result.records:
        assert "trainer.dataset must be on every node what it was" in str(record.reason)


@pytest.fixture
def little_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of its own, of 64 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(disk)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("needs the right to mount a tmpfs: run it as root")
    yield disk
    unmount = ["umount", "--lazy", str(disk)]
    subprocess.run(unmount, check=True)


def test_a_full_disk_pauses_the_search_and_nothing_is_lost(
    small: Small, drive: Drive, little_disk: Path
) -> None:
    elsewhere = {"uri": f"sqlite:///{little_disk.parent}/mlflow.db"}
    config = small(
        budget=LONG, trial_scheduler={"kind": "fifo"}, storage=little_disk, tracking=elsewhere
    )
    driver = drive(config, "run", "FILE")
    wait_for_reports(config.folder, 3)
    filler = little_disk / "filler"
    with suppress(OSError), filler.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    output, _ = driver.communicate(timeout=240)
    assert driver.returncode == 1, output
    assert "No space left on device" in output or "disk is full" in output
    assert f"`resume {config.name}` goes on" in output.replace("\n", " ")
    assert "Traceback" not in output
    filler.unlink()
    again = drive(config, "resume", config.name, "--storage", str(config.storage))
    output, _ = again.communicate(timeout=480)
    assert again.returncode == 0, output
    check_nothing_is_lost(SearchResult.read(config.resolved()), config.budget.milestones())


def ray_processes_of(pid: int) -> list[psutil.Process]:
    return psutil.Process(pid).children(recursive=True)


SECRETS = (
    "MLFLOW_TRACKING_PASSWORD",
    "PGPASSWORD",
    "AWS_SECRET_ACCESS_KEY",
    "RAY_AUTH_TOKEN",
    "HF_TOKEN",
)


@pytest.fixture
def secrets_(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """In the environment of what a test starts."""
    planted = {name: secrets.token_hex(16) for name in SECRETS}
    for name, value in planted.items():
        monkeypatch.setenv(name, value)
    return [value.encode() for value in planted.values()]


def sessions() -> set[Path]:
    """The folders of local Ray clusters: logs and sockets."""
    return set(Path(f"/tmp/stepsearch-{os.getuid()}/ray").glob("session_2*"))


def files(*folders: Path) -> Iterator[Path]:
    """What two searches at most can write; sockets have no content."""
    return (path for folder in folders for path in folder.rglob("*") if path.is_file())


def test_a_killed_driver_is_resumed_without_losing_a_trial_and_no_secret_is_written(
    small: Small, drive: Drive, secrets_: list[bytes], tmp_path: Path
) -> None:
    before_sessions = sessions()
    config = small(budget=LONG | {"trials": 4}, trial_scheduler={"kind": "fifo"}, cluster="local")
    driver = drive(config, "run", "FILE")
    wait_for_reports(config.folder, 8)
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

    bundle = tmp_path / "a-bundle"
    exported = drive(
        config, "export", config.name, "--out", str(bundle), "--storage", str(config.storage)
    )
    output += exported.communicate(timeout=120)[0]
    assert exported.returncode == 0, output
    logs = sessions() - before_sessions
    written = list(files(tmp_path, *logs))
    names = {path.name for path in written}
    assert {"mlflow.db", "study.db", "strategy.json", "config.yaml", "raylet.out"} <= names
    for secret in secrets_:
        assert secret not in output.encode()
        assert [path for path in written if secret in path.read_bytes()] == []
    assert 0 < spent["hours"] < result.ledger.spent["hours"]
    assert 0 < spent["cpu_hours"] < result.ledger.spent["cpu_hours"]


def test_cancel_does_what_ctrl_c_does(small: Small, drive: Drive) -> None:
    """From another terminal: the driver stops cleanly and says how to go on."""
    longer = {"trials": 2, "images": 20_000, "reports": 12}
    config = small(budget=longer, trial_scheduler={"kind": "fifo"})
    driver = drive(config, "run", "FILE")
    wait_for_reports(config.folder, 3)
    children = ray_processes_of(driver.pid)
    where = (config.name, "--storage", str(config.storage))
    canceled, _ = drive(config, "cancel", *where).communicate(timeout=120)
    assert canceled == "search small has stopped; `resume small` goes on with it\n"
    output, _ = driver.communicate(timeout=60)
    assert driver.returncode == 130, output
    assert f"resume {config.name}" in output
    assert "Traceback" not in output
    _, alive = psutil.wait_procs(children, timeout=20)
    assert not alive
    result = SearchResult.read(config.resolved())
    assert [record.outcome for record in result.records] == [None, None]
    assert all((result.folder.trial(n) / "checkpoint.pt").exists() for n in (0, 1))
    seen = {number: result.history.curve(number, "fd_digits") for number in (0, 1)}

    refused, _ = drive(config, "cancel", *where).communicate(timeout=60)
    assert refused == f"error: search {config.name!r} must be running: no driver has it\n"
    again = drive(config, "resume", *where)
    output, _ = again.communicate(timeout=480)
    assert again.returncode == 0, output
    check_nothing_is_lost(SearchResult.read(config.resolved()), config.budget.milestones())
    history = History(config.folder / "history.jsonl")
    for number, curve in seen.items():
        assert curve.items() <= history.curve(number, "fd_digits").items()


def test_a_second_ctrl_c_stops_at_once_and_loses_nothing(small: Small, drive: Drive) -> None:
    config = small(budget=LONG, trial_scheduler={"kind": "fifo"})
    driver = drive(config, "run", "FILE")
    wait_for_reports(config.folder, 3)
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
