"""A sqlite store for each test, and a real MLflow server that can be killed and started again."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from stepsearch.tracking import Tracker, TrackingConfig, ui_command
from stepsearch.tracking.client import connect

Open = Callable[..., Tracker]


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MLflow's tables take seconds to make, so that they are made once."""
    storage = tmp_path_factory.mktemp("template")
    connect(TrackingConfig().store_uri(storage))
    return storage / "mlflow.db"


@pytest.fixture
def storage(tmp_path: Path, empty_database: Path) -> Path:
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    return tmp_path


@pytest.fixture
def client(storage: Path) -> Any:
    return connect(TrackingConfig().store_uri(storage))


@pytest.fixture
def open_tracker(storage: Path) -> Iterator[Open]:
    opened = []

    def open_tracker(
        uri: str | None = None, search_id: str = "digits-1", **options: Any
    ) -> Tracker:
        config = TrackingConfig(uri=uri)
        options = {"family": "speed", "metric": "fd_digits", **options}
        opened.append(Tracker.open(config, storage, search_id=search_id, **options))
        return opened[-1]

    yield open_tracker
    for tracker in opened:
        tracker.close(timeout=5)


@pytest.fixture
def tracker(open_tracker: Open) -> Tracker:
    """A search that has begun."""
    tracker = open_tracker()
    tracker.start_search("digits", {"budget": 40_000})
    return tracker


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Server:
    """`mlflow server` on loopback, in a process group of its own."""

    def __init__(self, storage: Path) -> None:
        port = free_port()
        self.uri = f"http://127.0.0.1:{port}"
        self._command = ui_command(TrackingConfig(), storage, port=port)
        self._log = storage / "server.log"
        self._storage = storage
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, stdout=log, stderr=log, cwd=self._storage, start_new_session=True
            )
        for _ in range(1200):
            try:
                urllib.request.urlopen(f"{self.uri}/health", timeout=2).close()
                return
            except OSError:
                time.sleep(0.1)
        raise RuntimeError(self._log.read_text())

    def kill(self) -> None:
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> Iterator[Server]:
    storage = tmp_path_factory.mktemp("server")
    shutil.copy(empty_database, storage / "mlflow.db")
    server = Server(storage)
    server.start()
    yield server
    server.kill()
