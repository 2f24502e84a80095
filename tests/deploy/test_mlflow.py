"""docs/deploy/mlflow.sh, really started."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import time
import urllib.request
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from urllib.error import HTTPError

import pytest

from tests.deploy.conftest import DEPLOY, free_ports

pytestmark = [pytest.mark.slow]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("mlflow") / "server"


@pytest.fixture(scope="module")
def address(folder: Path) -> Iterator[str]:
    pytest.importorskip("flask_wtf", reason="needs `pip install 'mlflow[auth]'`")
    (port,) = free_ports(1)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    log = folder.parent / "server.log"
    with log.open("wb") as out:
        server = subprocess.Popen(
            ["bash", DEPLOY / "mlflow.sh", folder],
            env=os.environ | {"PATH": path, "MLFLOW_PORT": str(port)},
            stdout=out,
            stderr=out,
        )
    address = f"127.0.0.1:{port}"
    deadline = time.monotonic() + 120
    while ask(address, path="/health") != 200:
        assert server.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.2)
    yield address
    server.terminate()
    server.wait(timeout=60)


def ask(
    address: str,
    login: str = "",
    host: str | None = None,
    path: str = "/api/2.0/mlflow/experiments/get?experiment_id=0",
) -> int:
    """The HTTP status of the answer; 0 if there is none."""
    headers = {"Host": host or address}
    if login:
        headers["Authorization"] = f"Basic {b64encode(login.encode()).decode()}"
    request = urllib.request.Request(f"http://{address}{path}", headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return int(answer.status)
    except HTTPError as error:
        return error.code
    except OSError:
        return 0


def test_only_the_right_password_is_let_in(address: str, folder: Path) -> None:
    password = (folder / "admin-password").read_text().strip()
    assert len(password) >= 32
    assert ask(address, f"admin:{password}") == 200
    assert ask(address, "admin:wrong") == 401
    assert ask(address) == 401


def test_a_name_that_is_not_its_own_is_refused(address: str, folder: Path) -> None:
    password = (folder / "admin-password").read_text().strip()
    assert ask(address, f"admin:{password}", host="evil.example.com") == 403


def test_only_its_owner_reads_what_it_keeps(address: str, folder: Path) -> None:
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}
    assert {"admin-password", "secret-key", "users.db", "mlflow.db"} <= modes.keys()
    assert all(mode & 0o077 == 0 for mode in modes.values())
    assert stat.S_IMODE(folder.stat().st_mode) & 0o077 == 0
