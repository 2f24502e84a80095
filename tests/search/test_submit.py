"""A search on a cluster that is steered from a folder that sees nothing of it but its job server.

The cluster is a real head whose Python has every package that stepsearch needs, and no stepsearch.
"""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
import urllib.request
import venv
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from tests.conftest import free_port
from tests.search.conftest import SEARCH, TRAINER, wait_for_reports

pytestmark = [pytest.mark.slow]

ROOT = Path(__file__).parents[2]
LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
"""What `stepsearch.door.on_loopback` does, for a process of Ray's own."""
IMPORT = """
import sys
from stepsearch.cluster import connect
with connect(sys.argv[1], code=("stepsearch", "search_spaces", "trainers")):
    import ray

    def places():
        import search_spaces, stepsearch, trainers
        return [module.__file__ for module in (search_spaces, stepsearch, trainers)]

    print(*ray.get(ray.remote(places).remote()))
"""
LONG_ENOUGH_TO_CANCEL = {"trials": 2, "images": 12_800, "reports": 8}


class Head:
    """`ray start --head` with a job server on loopback and a token."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.token = folder, secrets.token_hex(32)
        self.storage = folder / "data"
        self.gcs, port = f"127.0.0.1:{free_port()}", free_port()
        self.url = f"http://127.0.0.1:{port}"
        python = make_bare_python(folder / "python")
        mine = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        options = {
            "node-ip-address": "127.0.0.1",
            "port": self.gcs.partition(":")[2],
            "include-dashboard": "true",
            "dashboard-host": "127.0.0.1",
            "dashboard-port": port,
            "dashboard-agent-listen-port": free_port(),
            "ray-client-server-port": free_port(),
            "num-cpus": 2,
            "temp-dir": folder / "ray",
        }
        words = [f"--{name}={value}" for name, value in options.items()]
        start = [python, "-m", "ray.scripts.scripts", "start", "--head", "--block", *words]
        with (folder / "head.log").open("wb") as log:
            self._process = subprocess.Popen(
                start,
                env={**mine, **LOOPBACK, **self.credentials, "PATH": f"{python.parent}:/bin"},
                cwd=folder,
                stdout=log,
                stderr=log,
            )

    @property
    def credentials(self) -> dict[str, str]:
        return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": self.token}

    def wait(self) -> None:
        for _ in range(600):
            try:
                urllib.request.urlopen(f"{self.url}/api/version", timeout=2).close()
            except urllib.error.HTTPError:  # it asks for its token
                return
            except OSError:
                time.sleep(0.1)
        raise RuntimeError((self.folder / "head.log").read_text())

    def drivers(self) -> list[int]:
        """The processes of jobs that run a search."""
        mine = psutil.Process(self._process.pid).children(recursive=True)
        with suppress(psutil.Error):  # one of them has just ended
            return [process.pid for process in mine if "search.yaml" in process.cmdline()]
        return self.drivers()

    def close(self) -> None:
        processes = psutil.Process(self._process.pid).children(recursive=True)
        self._process.terminate()
        self._process.wait(timeout=60)
        _, alive = psutil.wait_procs(processes, timeout=20)
        for process in alive:
            process.kill()


def make_bare_python(folder: Path) -> Path:
    """The packages of this Python; those that are installed as editable are not seen."""
    venv.create(folder, symlinks=True)
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "packages.pth").write_text(sysconfig.get_path("purelib"))
    python = folder / "bin" / "python"
    code = "import importlib.util, ray; print(importlib.util.find_spec('stepsearch'))"
    if subprocess.check_output([python, "-c", code], cwd=folder, env={}, text=True) != "None\n":
        pytest.skip("needs stepsearch as a checkout: pip install -e .")
    return python


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    folder = Path(tempfile.mkdtemp(prefix="stepsearch-head-"))  # Ray's sockets need a short path
    started = Head(folder)
    try:
        started.wait()
        yield started
    finally:
        started.close()
        shutil.rmtree(folder)


class Laptop:
    """A folder elsewhere, where somebody types commands."""

    def __init__(self, folder: Path, head: Head) -> None:
        self.folder, self._head = folder, head
        folder.mkdir()

    def write(self, **changes: Any) -> None:
        data = SEARCH | {"trainer": TRAINER, "space": "speed", "lanes": {"count": 1}}
        data |= {"storage": str(self._head.storage), "trial_scheduler": {"kind": "fifo"}}
        (self.folder / "search.yaml").write_text(yaml.safe_dump(data | changes))

    def begin(self, *words: str, python: str = "", **environment: str) -> subprocess.Popen[str]:
        plain = {name: v for name, v in os.environ.items() if not name.startswith("RAY_")}
        path = {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "platform")])}
        mine = self._head.credentials | {"RAY_API_SERVER_ADDRESS": self._head.url}
        home = {"COLUMNS": "100", "HOME": str(self.folder.parent)}
        given = plain | path | mine | home | environment
        program = ["-c", python] if python else [str(ROOT / "run_search.py")]
        return subprocess.Popen(
            [sys.executable, *program, *words],
            env={name: value for name, value in given.items() if value},
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def type(self, *words: str) -> str:
        out, err = self.begin(*words).communicate(timeout=300)
        assert err == ""
        return out


@pytest.fixture
def laptop(head: Head, tmp_path: Path) -> Laptop:
    return Laptop(tmp_path / "laptop", head)


def refusal(command: subprocess.Popen[str]) -> str:
    """The one line of a command that is refused."""
    out, err = command.communicate(timeout=120)
    assert (command.returncode, out, err.count("\n")) == (2, "", 1), err
    return err.removeprefix("error: ").rstrip()


def test_a_search_lives_on_a_cluster_and_is_steered_from_elsewhere(
    head: Head, laptop: Laptop
) -> None:
    laptop.write(budget=LONG_ENOUGH_TO_CANCEL)
    begun = laptop.type("submit", "search.yaml")
    assert begun.startswith("search small: 2 trials of 12,800 images\njob stepsearch-small.1 at")

    second, asked = laptop.begin("submit", "search.yaml"), laptop.begin("status", "small")
    assert refusal(second) == (
        "search 'small' must not be running already: job stepsearch-small.1 has it"
    )
    status, _ = asked.communicate(timeout=120)
    assert status.startswith("job stepsearch-small.1: RUNNING\nsearch small")
    assert f"python run_search.py ui small --address {head.url}" in status

    wait_for_reports(head.storage / "small", 2)
    assert "has stopped; `submit FILE.yaml` goes on with it" in laptop.type("cancel", "small")
    assert not head.drivers()
    assert (head.storage / "small" / "trials" / "000" / "checkpoint.pt").exists()
    log = next(head.folder.glob("ray/session_2*/logs/job-driver-stepsearch-small.1.log"))
    assert "The search was stopped; everything so far is kept." in log.read_text()
    assert "small   STOPPED" in laptop.type("status")

    assert "job stepsearch-small.2 at" in laptop.type("submit", "search.yaml")
    deadline = time.monotonic() + 240
    while head.drivers():
        assert time.monotonic() < deadline
        time.sleep(0.5)
    assert "job stepsearch-small.2: SUCCEEDED" in laptop.type("status", "small")

    assert laptop.type("export", "small", "--force") == "wrote small-bundle\n"
    bundle = laptop.folder / "small-bundle"
    assert {"README.md", "pipeline", "strategy.json"} <= {path.name for path in bundle.iterdir()}
    assert {path.name for path in laptop.folder.iterdir()} == {"search.yaml", "small-bundle"}
    assert not list(head.folder.glob("ray/session_2*/logs/*.zip"))
    assert refusal(laptop.begin("export", "small")) == (
        "folder must not exist yet, got 'small-bundle'"
    )


def test_a_driver_that_joins_the_cluster_sends_it_the_code(head: Head, laptop: Laptop) -> None:
    shipped, err = laptop.begin(head.gcs, python=IMPORT, **LOOPBACK).communicate(timeout=120)
    places = [Path(place) for place in shipped.split()]
    names = [place.parent.name for place in places]
    assert names == ["search_spaces", "stepsearch", "trainers"], err
    assert all(place.is_relative_to(head.folder / "ray") for place in places)


NONE = {"RAY_AUTH_MODE": "", "RAY_AUTH_TOKEN": ""}
NO_TOKEN = (
    "must be given its token: set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN, or RAY_AUTH_TOKEN_PATH "
    "to a file that holds it"
)
SERVER = "--address must be the Ray job server of a cluster (http://HEAD:8265), got"


def test_mistakes_are_one_line_and_leave_nothing(head: Head, laptop: Laptop) -> None:
    laptop.write(name="fresh", cluster="auto")
    closed = f"http://127.0.0.1:{free_port()}"
    submit = ("submit", "search.yaml")
    elsewhere = "storage must be a bucket or the whole path of a folder that all nodes see, got"
    commands = [
        (laptop.begin(*submit, "--address", closed), f"{SERVER} {closed!r}: Connection refused"),
        (laptop.begin(*submit, "--address", head.gcs), f"{SERVER} {head.gcs!r}"),
        (
            laptop.begin(*submit, RAY_API_SERVER_ADDRESS=""),
            f"{SERVER} none; RAY_API_SERVER_ADDRESS can name it too",
        ),
        (laptop.begin(*submit, **NONE), f"cluster {head.url!r} {NO_TOKEN}"),
        (
            laptop.begin("status", RAY_AUTH_TOKEN="0" * 64),
            f"cluster {head.url!r} {NO_TOKEN}",
        ),
        (laptop.begin(*submit, "--set", "storage=data"), f"{elsewhere} 'data'"),
        (
            laptop.begin(*submit, "--set", "lanes.count=9"),
            "lanes must fit into the cluster: 9 x 1 workers need 9 CPUs and 0 GPUs, it has 2 CPUs "
            "and 0 GPUs",
        ),
        (
            laptop.begin("run", "search.yaml", "--address", head.url),
            f"--address must be local, auto or host:port, got {head.url!r}: `submit` takes it",
        ),
        *(
            (laptop.begin(verb, "other"), f"search must be one of those at {head.url} (")
            for verb in ("status", "ui", "export", "cancel")
        ),
    ]  # fmt: skip
    for command, line in commands:
        assert refusal(command).startswith(line)
    assert not (head.storage / "fresh").exists()
    assert [path.name for path in laptop.folder.iterdir()] == ["search.yaml"]
