"""What tests of several folders share, once for the whole run: a small Ray cluster, a PostgreSQL
server and an MLflow server that can be killed and started again; and photographs."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
import torch
from hypothesis import settings
from PIL import Image
from sklearn.datasets import load_sample_images

from stepsearch import cluster
from stepsearch.diffusion.datasets import ImagesConfig
from stepsearch.diffusion.datasets.encoding import Encoding
from stepsearch.diffusion.datasets.shards import encode_here
from stepsearch.tracking import TrackingConfig, ui_command
from stepsearch.tracking.client import connect
from tests.latents import write_digits, write_vae
from tests.store import Store

settings.register_profile("calm", deadline=None, derandomize=True, database=None)
settings.load_profile("calm")  # nothing is timed, and what passed once passes again

os.environ["RAY_ENABLE_AUTO_CONNECT"] = "0"  # before Ray is imported: no test starts it by chance


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Tests run beside clusters and servers, where a second thread mostly waits."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def machine(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What a machine keeps of data sets does not outlive the tests."""
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("machine"))


@pytest.fixture(autouse=True)
def no_credentials() -> Iterator[None]:
    """A test finds none of Ray's in the environment, and leaves none: they would shut the clusters
    of the tests after it."""
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        os.environ.pop(name, None)
    yield
    assert not any(name.startswith("RAY_AUTH") for name in os.environ)


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """A local cluster with two CPUs."""
    with cluster.connect("local", cpus=2):
        yield


@pytest.fixture
def ray_credentials(ray_cluster: None) -> dict[str, str]:
    """What another process has in its environment that may join this cluster."""
    import ray

    token: str = ray.get(ray.remote(lambda: os.environ["RAY_AUTH_TOKEN"]).remote())
    return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token}


class Postgres:
    """A PostgreSQL server of our own, on a free loopback port."""

    def __init__(self, programs: Path, folder: Path) -> None:
        self._programs, self._folder = programs, folder
        self.password = secrets.token_hex(16)
        (folder / "password").write_text(self.password)
        # It refuses to be root.
        self._user = ["/usr/sbin/runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
        if self._user:
            for path in (folder, folder / "password"):
                shutil.chown(path, "postgres")
        self._port = free_port()
        self._run(
            "initdb", "-U", "stepsearch", "-A", "scram-sha-256", f"--pwfile={folder / 'password'}"
        )
        self._address = f"//stepsearch@127.0.0.1:{self._port}"

    def database(self, name: str) -> str:
        """The URL of a new database; PGPASSWORD holds its password."""
        import psycopg

        with psycopg.connect(f"postgresql:{self._address}/postgres", autocommit=True) as admin:
            admin.execute(f"CREATE DATABASE {name}")
        return f"postgresql+psycopg:{self._address}/{name}"

    def start(self) -> None:
        options = f"-p {self._port} -c listen_addresses=127.0.0.1 -c fsync=off"
        options += " -c unix_socket_directories=''"
        self._run("pg_ctl", "-w", "-l", str(self._folder / "log"), "-o", options, "start")

    def stop(self) -> None:
        self._run("pg_ctl", "-m", "immediate", "stop")

    def _run(self, program: str, *arguments: str) -> None:
        data = str(self._folder / "data")
        command = [*self._user, str(self._programs / program), "-D", data, *arguments]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=self._folder)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """Running; a test that stops it starts it again."""
    pytest.importorskip("psycopg", reason="needs a driver: pip install 'psycopg[binary]'")
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    which = shutil.which("pg_ctl")
    if not found and which is None:
        pytest.skip("needs PostgreSQL's server binaries: apt-get install -y postgresql")
    folder = Path(tempfile.mkdtemp(prefix="stepsearch-pg-"))
    server = Postgres(found[-1] if found else Path(str(which)).parent, folder)
    server.start()
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("PGPASSWORD", server.password)
        yield server
    server.stop()
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MLflow's tables take seconds to make, so that they are made once."""
    storage = tmp_path_factory.mktemp("template")
    connect(TrackingConfig().store_uri(storage))
    return storage / "mlflow.db"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Server:
    """`mlflow server` on loopback, in a process group of its own."""

    def __init__(self, storage: Path, *options: str, environment: Mapping[str, str]) -> None:
        port = free_port()
        self.uri = f"http://127.0.0.1:{port}"
        self._command = [*ui_command(TrackingConfig(), storage, port=port), *options]
        self._environment = {**os.environ, **environment}
        self._log = storage / "server.log"
        self._storage = storage
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                stdout=log,
                stderr=log,
                cwd=self._storage,
                env=self._environment,
                start_new_session=True,
            )
        for _ in range(1200):
            try:
                urllib.request.urlopen(f"{self.uri}/health", timeout=2).close()
                return
            except OSError:
                time.sleep(0.1)
        raise RuntimeError(self._log.read_text())

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        os.killpg(self._process.pid, number)

    def kill(self) -> None:
        if self._process is not None:
            self.signal(signal.SIGKILL)
            self._process.wait()
            self._process = None


StartServer = Callable[..., Server]


@pytest.fixture(scope="session")
def start_server(
    tmp_path_factory: pytest.TempPathFactory, empty_database: Path
) -> Iterator[StartServer]:
    """start_server(*options of `mlflow server`, environment={}): one with a storage of its own."""
    started: list[Server] = []

    def start(*options: str, environment: Mapping[str, str] | None = None) -> Server:
        storage = tmp_path_factory.mktemp("server")
        shutil.copy(empty_database, storage / "mlflow.db")
        started.append(Server(storage, *options, environment=environment or {}))
        started[-1].start()
        return started[-1]

    yield start
    for server in started:
        server.kill()


@pytest.fixture(scope="session")
def server(start_server: StartServer) -> Server:
    """Running; a test that kills it starts it again."""
    return start_server()


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    server = Store(tmp_path_factory.mktemp("s3") / "server.log")
    yield server
    server.close()


@pytest.fixture
def store(s3_server: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """An S3 server with an empty bucket; who may use it is in this environment, as on a machine
    that has not seen it before."""
    s3_server.enter(monkeypatch, tmp_path / "machine")
    s3_server.empty()
    return s3_server


@pytest.fixture(scope="session")
def vae(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small autoencoder's folder."""
    return write_vae(tmp_path_factory.mktemp("autoencoder") / "vae")


@pytest.fixture(scope="session")
def encoded(vae: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The latents of 300 digits, and beside them the digits; not to be written to."""
    folder = tmp_path_factory.mktemp("encoded")
    pictures = ImagesConfig(path=write_digits(folder / "digits.npz"), size=8, channels=1)
    Encoding.of(pictures, vae, folder / "latents").run(encode_here(64))
    return folder / "latents"


@pytest.fixture(scope="session")
def photographs() -> list[Image.Image]:
    """20 different patches, 90 wide and 60 high, of scikit-learn's photographs."""
    return [
        Image.fromarray(photograph[top : top + 60, left : left + 90])
        for photograph in load_sample_images().images
        for top in (0, 120)
        for left in range(0, 450, 90)
    ]
