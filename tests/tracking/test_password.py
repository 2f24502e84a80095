"""The password of a database comes from the environment or a file, not from tracking.uri."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from stepsearch.errors import UserError
from stepsearch.tracking import TrackingConfig
from stepsearch.tracking.client import answering, connect

pytestmark = [pytest.mark.slow]


def test_postgresql_is_told_the_password_by_the_environment_or_a_file(
    postgres: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = TrackingConfig(uri=postgres.database("passwords")).uri
    assert uri is not None
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("PGPASSWORD")
    line = r"^tracking.uri must answer, .*no password supplied$"
    with pytest.raises(UserError, match=line), answering(uri):
        connect(uri)

    monkeypatch.setenv("PGPASSWORD", postgres.password)
    assert connect(uri).search_experiments()[0].name == "Default"
    monkeypatch.delenv("PGPASSWORD")

    file = tmp_path / "passwords"
    file.write_text(f"*:*:*:stepsearch:{postgres.password}\n")
    file.chmod(0o600)
    named = TrackingConfig(uri=f"{uri}?passfile={file}").uri
    assert named is not None
    connect(named)
    file.rename(tmp_path / ".pgpass")
    connect(uri)
