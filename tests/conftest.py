"""What tests of several folders share: one small Ray cluster, one PostgreSQL server."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from stepsearch import cluster


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """A local cluster with two CPUs."""
    with cluster.connect("local", cpus=2):
        yield


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The URL of an empty PostgreSQL server on a free loopback port."""
    pytest.importorskip("psycopg", reason="needs a driver: pip install 'psycopg[binary]'")
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    which = shutil.which("pg_ctl")
    if not found and which is None:
        pytest.skip("needs PostgreSQL's server binaries: apt-get install -y postgresql")
    programs = found[-1] if found else Path(str(which)).parent
    folder = Path(tempfile.mkdtemp(prefix="stepsearch-pg-"))
    password = secrets.token_hex(16)
    (folder / "password").write_text(password)
    user = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []  # refuses to be root
    if user:
        for path in (folder, folder / "password"):
            shutil.chown(path, "postgres")

    def run(program: str, *arguments: str) -> None:
        command = [*user, str(programs / program), "-D", str(folder / "data"), *arguments]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=folder)

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    run("initdb", "-U", "stepsearch", "-A", "scram-sha-256", f"--pwfile={folder / 'password'}")
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories='' -c fsync=off"
    run("pg_ctl", "-w", "-l", str(folder / "log"), "-o", options, "start")
    yield f"postgresql+psycopg://stepsearch:{password}@127.0.0.1:{port}/postgres"
    run("pg_ctl", "-m", "immediate", "stop")
    shutil.rmtree(folder)
