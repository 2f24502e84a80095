"""A search in a bucket of a real S3 server: what dies on the machines is nothing that is lost."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from pathlib import Path

import psutil
import pytest

from stepsearch.search.config import SearchConfig
from stepsearch.search.result import SearchResult
from tests.conftest import Server
from tests.search.conftest import Drive, Small, wait_for_reports
from tests.search.test_faults import (
    LONG,
    check_nothing_is_lost,
    files,
    sessions,
)
from tests.store import BUCKET, Store

pytestmark = [pytest.mark.slow]


def worker_of(driver: int) -> psutil.Process:
    """A process that trains."""
    for process in psutil.Process(driver).children(recursive=True):
        if process.cmdline()[:1] and process.cmdline()[0].startswith("ray::RayTrainWorker"):
            return process
    raise AssertionError("no worker")


def rows_of(store: Store, config: SearchConfig, number: int) -> list[int]:
    """`images_seen` of each line that the trainer has written about its losses."""
    data = store.read(f"team/{config.name}/trials/{number:03d}/loss.jsonl")
    return [json.loads(line)["images_seen"] for line in data.splitlines()]


def test_a_search_in_a_bucket_outlives_a_worker_the_store_and_its_drivers_machine(
    small: Small,
    drive: Drive,
    store: Store,
    server: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = small(
        storage=f"s3://{BUCKET}/team",
        tracking={"uri": server.uri},
        budget=LONG,
        trial_scheduler={"kind": "fifo"},
        cluster="local",
        retries=2,
    )
    before_sessions = sessions()
    driver = drive(config, "run", "FILE")
    wait_for_reports(config.folder, 2)
    worker_of(driver.pid).kill()
    shutil.rmtree(config.home / ".lanes", ignore_errors=True)  # of both lanes' workers
    store.suspend()
    time.sleep(8)
    store.wake()
    wait_for_reports(config.folder, 5)
    os.kill(driver.pid, signal.SIGKILL)
    output = driver.communicate()[0]
    shutil.rmtree(tmp_path / "machine", ignore_errors=True)  # its workers are just ending

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "second"))
    place = ("--storage", str(config.storage))
    again = drive(config, "resume", config.name, *place)
    output += again.communicate(timeout=480)[0]
    assert again.returncode == 0, output

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "third"))
    result = SearchResult.read(config.resolved())
    milestones = config.budget.milestones()
    check_nothing_is_lost(result, milestones)
    for record in result.records:
        rows = rows_of(store, config, record.number)
        assert set(rows) <= set(milestones)
        assert rows.count(milestones[0]) <= 1, "no trial begins anew"
    bundle = drive(config, "export", config.name, *place, "--out", str(tmp_path / "bundle"))
    said = bundle.communicate(timeout=120)[0]
    assert bundle.returncode == 0, said
    assert "Traceback" not in said
    assert (tmp_path / "bundle" / "strategy.json").is_file()
    names = store.names()
    assert not any("lock.json" in name for name in names)
    secret = store.environment["AWS_SECRET_ACCESS_KEY"].encode()
    assert secret not in (output + said).encode()
    assert [name for name in names if secret in store.read(name)] == []
    written = files(tmp_path, *sessions() - before_sessions)
    assert [path for path in written if secret in path.read_bytes()] == []
