"""A sqlite store for each test, and MLflow servers with a password or with bad manners."""

from __future__ import annotations

import secrets
import shutil
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from stepsearch.tracking import Tracker, TrackingConfig
from stepsearch.tracking.client import connect

Open = Callable[..., Tracker]


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
        spool = storage / f"{search_id}.jsonl"
        options = {"spool": spool, "family": "speed", "metric": "fd_digits", **options}
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


@pytest.fixture(scope="session")
def password() -> str:
    return secrets.token_hex(16)


@pytest.fixture(scope="session")
def server_with_password(start_server: Callable[..., Any], password: str) -> Any:
    """Its user `admin` has the password; files come and go through it."""
    pytest.importorskip("flask_wtf", reason="needs MLflow's logins: pip install 'mlflow[auth]'")
    return start_server(
        *("--app-name", "basic-auth", "--serve-artifacts"),
        environment={
            "MLFLOW_AUTH_ADMIN_PASSWORD": password,
            "MLFLOW_FLASK_SERVER_SECRET_KEY": secrets.token_hex(16),
        },
    )


@pytest.fixture(scope="session")
def postgres_uri(postgres: Any) -> str:
    """An MLflow database on the PostgreSQL server."""
    uri: str = postgres.database("mlflow")
    connect(uri)
    return uri


class Proxy(ThreadingHTTPServer):
    """Passes requests on to a server, as `how` says:

    ok      the server's own answer
    broken  status 500, and the server hears nothing
    page    status 200 with a page of HTML, and the server hears nothing
    late    the server does it, but the client has gone when the answer comes
    held    the server hears of it only after `release`, and the client has gone long before
    """

    daemon_threads = True

    def __init__(self, server: str) -> None:
        super().__init__(("127.0.0.1", 0), _Passing)
        self.server = server
        self.uri = f"http://127.0.0.1:{self.server_port}"
        self.how: Callable[[str], str] = lambda path: "ok"
        self.release = threading.Event()
        self.seen: list[str] = []  # how each request was answered
        self._thread = threading.Thread(target=self.serve_forever)
        self._thread.start()

    def stop(self) -> None:
        self.release.set()
        self.shutdown()
        self._thread.join()
        self.server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """The client has gone, which is what it is for."""


class _Passing(BaseHTTPRequestHandler):
    server: Proxy

    def do_POST(self) -> None:
        proxy = self.server
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        how = proxy.how(self.path)
        proxy.seen.append(how)
        if how == "broken":
            self._answer(500, "text/plain", b"Internal Server Error")
        elif how == "page":
            self._answer(200, "text/html", b"<html>We will be back soon</html>")
        else:
            if how == "held":
                proxy.release.wait()
            status, kind, answer = self._ask(body)
            if how == "late":
                time.sleep(2)  # the tests' clients wait for one
            self._answer(status, kind, answer)

    do_GET = do_PUT = do_PATCH = do_DELETE = do_POST

    def log_message(self, format: str, *args: Any) -> None: ...

    def _ask(self, body: bytes) -> tuple[int, str, bytes]:
        headers = {k: v for k, v in self.headers.items() if k in ("Content-Type", "Authorization")}
        request = urllib.request.Request(
            self.server.server + self.path, body or None, headers, method=self.command
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, answer.headers["Content-Type"], answer.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.headers["Content-Type"], error.read()

    def _answer(self, status: int, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def proxy(server: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """In front of the server, for clients that wait for an answer for one second."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    proxy = Proxy(server.uri)
    yield proxy
    proxy.stop()
