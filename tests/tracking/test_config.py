from __future__ import annotations

from pathlib import Path

import pytest

from stepsearch.config import parse
from stepsearch.errors import UserError
from stepsearch.tracking import TrackingConfig
from stepsearch.tracking.config import hide_password


def test_the_default_store_is_a_sqlite_file_in_the_storage(tmp_path: Path) -> None:
    config = TrackingConfig()
    assert config.store_uri(tmp_path) == f"sqlite:///{tmp_path}/mlflow.db"
    assert config.artifact_root(tmp_path) == tmp_path / "mlartifacts"


def test_a_relative_storage_gives_an_absolute_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert TrackingConfig().store_uri(Path("here")) == f"sqlite:///{tmp_path}/here/mlflow.db"


@pytest.mark.parametrize("uri", ["http://localhost:5000", "https://mlflow.org", "databricks"])
def test_a_server_keeps_the_artifacts_itself(uri: str, tmp_path: Path) -> None:
    assert TrackingConfig(uri=uri).artifact_root(tmp_path) is None


def test_a_database_leaves_the_artifacts_in_the_storage(tmp_path: Path) -> None:
    config = TrackingConfig(uri="postgresql://user@host/db")
    assert config.artifact_root(tmp_path) == tmp_path / "mlartifacts"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"uri": "./mlruns"}, "tracking.uri must start with one of sqlite, http"),
        ({"uri": "file:///tmp/mlruns"}, "got 'file:///tmp/mlruns'"),
        ({"uri": "sqlite:///mlflow.db"}, "must hold an absolute path (sqlite:////folder/"),
        ({"uri": "redis://me:secret@host"}, "got 'redis://me:***@host'"),
        (
            {"uri": "http://me:secret@host"},
            "tracking.uri must hold no password, got 'http://***@host': "
            "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD",
        ),
        (
            {"uri": "postgresql://me:a/b@c@host/db"},
            "tracking.uri must hold no password, got 'postgresql://me:***@host/db': "
            "set PGPASSWORD, or write it to ~/.pgpass",
        ),
        (
            {"uri": "postgresql+psycopg://h/db?user=me&Password=secret"},
            "/db?user=me&Password=***'",
        ),
        ({"uri": "https://a-secret-token@host"}, "got 'https://***@host': set MLFLOW_TRACKING_"),
        ({"uri": "mysql://me:secret@host/db"}, "'mysql://me:***@host/db': write it to a file"),
        ({"uri": 5000}, "tracking.uri must be a string, got 5000"),
        ({"experiment": ""}, "tracking.experiment must"),
        ({"experiment": 7}, "tracking.experiment must be a string, got 7"),
        ({"url": "http://host"}, "tracking.url is not a known key; did you mean 'uri'?"),
    ],
)
def test_a_bad_value_is_refused_in_one_line(data: dict[str, object], message: str) -> None:
    with pytest.raises(UserError) as caught:
        parse(TrackingConfig, data, "tracking")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_password_is_never_shown() -> None:
    assert hide_password("postgresql://me:p4ss@host:5432/db") == "postgresql://me:***@host:5432/db"
    assert hide_password("http://host:5000/path") == "http://host:5000/path"
