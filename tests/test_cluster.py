"""Nobody is let into a local cluster, and an existing one is joined with the user's own token."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import ray

from stepsearch.door import own_folder
from stepsearch.errors import UserError

pytestmark = [pytest.mark.slow]

JOIN = """
import sys
from stepsearch.cluster import connect, resources
from stepsearch.errors import UserError
try:
    with connect(sys.argv[1]):
        print(f"{resources()['CPU']:g} CPUs")
except UserError as error:
    print(error)
"""
KNOCK = """
import sys
import ray
from ray._raylet import GcsClient
from ray.exceptions import AuthenticationError
try:
    GcsClient(address=sys.argv[1])
    print("let in")
except AuthenticationError:
    print("refused")
"""
CREDENTIALS = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")


def run(
    code: str, *words: str, home: Path, **environment: str
) -> subprocess.CompletedProcess[str]:
    """A program with these credentials and no others."""
    plain = {name: value for name, value in os.environ.items() if name not in CREDENTIALS}
    return subprocess.run(
        [sys.executable, "-c", code, *words],
        env=plain | {"HOME": str(home)} | environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )


@pytest.fixture
def token(ray_credentials: dict[str, str]) -> str:
    """Of the local cluster that is up."""
    return ray_credentials["RAY_AUTH_TOKEN"]


@pytest.fixture
def address(ray_cluster: None) -> str:
    found: str = ray.get_runtime_context().gcs_address
    return found


def of_the_cluster() -> list[psutil.Process]:
    return [psutil.Process(), *psutil.Process().children(recursive=True)]


def test_its_ports_are_open_on_loopback_only(address: str) -> None:
    assert address.startswith("127.0.0.1:")
    pids = {process.pid for process in of_the_cluster() if "server" not in process.cmdline()}
    listening = [
        connection.laddr.ip
        for connection in psutil.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN and connection.pid in pids
    ]
    assert len(listening) > 5, "of the GCS, the raylet, the agents, the workers, the driver"
    assert {ip.removeprefix("::ffff:") for ip in listening} == {"127.0.0.1"}


def test_its_files_and_sockets_are_its_users_alone(ray_cluster: None) -> None:
    session = Path(ray._private.worker._global_node.get_session_dir_path())
    above = session.parents[1].stat()
    assert above.st_mode & 0o077 == 0
    assert above.st_uid == os.getuid()


def test_a_folder_that_others_can_write_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    folder = tmp_path / f"stepsearch-{os.getuid()}"
    assert own_folder() == folder
    folder.chmod(0o777)
    with pytest.raises(UserError, match="must be a folder that only you can enter"):
        own_folder()
    folder.rmdir()
    folder.symlink_to(tmp_path)
    with pytest.raises(UserError, match="must be a folder that only you can enter"):
        own_folder()


def test_its_token_shows_nowhere(token: str) -> None:
    assert len(token) == 64
    titles = [" ".join(process.cmdline()) for process in of_the_cluster()]
    assert any("gcs_server" in title for title in titles)
    assert not any(token in title for title in titles)
    assert token not in os.environ.values()
    session = Path(ray._private.worker._global_node.get_session_dir_path())
    logs = [path for path in (session / "logs").rglob("*") if path.is_file()]
    assert logs
    assert not any(token.encode() in log.read_bytes() for log in logs)
    kept = Path.home() / ".ray" / "auth_token"
    assert not kept.exists() or kept.read_text().strip() != token


def test_who_does_not_have_its_token_is_refused(address: str, token: str, tmp_path: Path) -> None:
    right = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token}
    wrong = right | {"RAY_AUTH_TOKEN": "0" * 64}
    assert run(KNOCK, address, home=tmp_path).stdout == "refused\n"
    assert run(KNOCK, address, home=tmp_path, **wrong).stdout == "refused\n"
    assert run(KNOCK, address, home=tmp_path, **right).stdout == "let in\n"


def test_who_joins_without_the_token_is_told_which_variable_to_set(
    address: str, token: str, tmp_path: Path
) -> None:
    line = (
        f"cluster {address!r} must be given its token: set RAY_AUTH_MODE=token and "
        "RAY_AUTH_TOKEN, or RAY_AUTH_TOKEN_PATH to a file that holds it\n"
    )
    for wrong in (
        {},
        {"RAY_AUTH_MODE": "disabled"},
        {"RAY_AUTH_MODE": "token"},  # Ray itself aborts here
        {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64},
    ):
        ended = run(JOIN, address, home=tmp_path, **wrong)
        assert (ended.stdout, ended.stderr) == (line, ""), wrong
    (tmp_path / "token").write_text(token)
    right = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(tmp_path / "token")}
    assert run(JOIN, address, home=tmp_path, **right).stdout == "2 CPUs\n"


TWICE = """
import json, os
from stepsearch.cluster import connect
def seen():
    return {name: os.environ[name] for name in os.environ if name.startswith("RAY_AUTH")}
found = [seen()]
for _ in range(2):
    with connect("local", cpus=1):
        import ray
        found += [seen(), ray.get(ray.remote(seen).remote())]
print(json.dumps(found + [seen()]))
"""


def test_each_cluster_has_a_token_of_its_own_and_the_users_stays_as_it_was(tmp_path: Path) -> None:
    stale = tmp_path / ".ray" / "auth_token"
    stale.parent.mkdir()
    stale.write_text("0" * 64)
    users = {"RAY_AUTH_MODE": "disabled", "RAY_AUTH_TOKEN": "the user's"}
    ended = run(TWICE, home=tmp_path, **users)
    before, during, first, again, second, after = json.loads(ended.stdout)
    assert before == during == again == after == users
    tokens = {cluster["RAY_AUTH_TOKEN"] for cluster in (first, second)}
    assert len(tokens | {"0" * 64, "the user's"}) == 4
    assert first["RAY_AUTH_MODE"] == "token"
    assert stale.read_text() == "0" * 64
