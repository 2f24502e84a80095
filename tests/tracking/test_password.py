"""The password of a database comes from the environment or a file, not from tracking.uri."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy.engine import URL, make_url

from stepsearch.errors import UserError
from stepsearch.tracking import TrackingConfig
from stepsearch.tracking.client import answering, connect

pytestmark = [pytest.mark.slow]


@pytest.fixture(scope="module")
def database(postgres: str) -> URL:
    """One for MLflow: its tables and Optuna's have a name in common."""
    import psycopg

    url = make_url(postgres)
    with psycopg.connect(url.set(drivername="postgresql").render_as_string(False)) as server:
        server.autocommit = True
        server.execute("create database mlflow")
    return url.set(database="mlflow")


def test_postgresql_is_told_the_password_by_the_environment_or_a_file(
    database: URL, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = database._replace(password=None)
    uri = TrackingConfig(uri=url.render_as_string()).uri
    assert uri is not None
    monkeypatch.setenv("HOME", str(tmp_path))
    line = r"^tracking.uri must answer, .*no password supplied$"
    with pytest.raises(UserError, match=line), answering(uri):
        connect(uri)

    monkeypatch.setenv("PGPASSWORD", str(database.password))
    assert connect(uri).search_experiments()[0].name == "Default"
    monkeypatch.delenv("PGPASSWORD")

    file = tmp_path / "passwords"
    file.write_text(f"{url.host}:{url.port}:*:{url.username}:{database.password}\n")
    file.chmod(0o600)
    named = TrackingConfig(uri=f"{uri}?passfile={file}").uri
    assert named is not None
    connect(named)
    file.rename(tmp_path / ".pgpass")
    connect(uri)
