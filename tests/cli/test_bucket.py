"""What is wrong with a bucket is said in one line, before anything is started."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import Cli
from tests.store import BUCKET, Store

TRACKED = ("--set", "tracking.uri=http://127.0.0.1:9")
YOURS = "storage must be a bucket that you may read and write, got"
WRONG = [
    ("s3://nowhere/team", {}, "storage must be a bucket that exists, got 's3://nowhere/team{}'"),
    (f"s3://{BUCKET}/team", {"AWS_SECRET_ACCESS_KEY": "planted"},
     f"{YOURS} 's3://{BUCKET}/team{{}}': SignatureDoesNotMatch"),
    (f"s3://{BUCKET}/team", {"AWS_ENDPOINT_URL": "http://user:planted@127.0.0.1:9"},
     f"storage must be a bucket whose server answers, got 's3://{BUCKET}/team{{}}' at "
     "http://***@127.0.0.1:9: EndpointConnectionError"),
    ("s3://key:planted@bucket/team", {},
     "storage must be a folder or s3://bucket/prefix, without credentials (AWS_ACCESS_KEY_ID and "
     "AWS_SECRET_ACCESS_KEY or ~/.aws hold them; AWS_ENDPOINT_URL names another server than "
     "Amazon's), got 's3://...'"),
]  # fmt: skip


@pytest.mark.parametrize(("storage", "settings", "line"), WRONG)
def test_a_bucket_that_cannot_be_used_is_refused(
    cli: Cli,
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    storage: str,
    settings: dict[str, str],
    line: str,
) -> None:
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    commands = {
        "/small": ["run", "small.yaml", *TRACKED, "--set", f"storage={storage}"],
        "/old": ["resume", "old", "--storage", storage],
        "": ["status", "--storage", storage],
    }
    for end, command in commands.items():
        ending = cli(*command)
        assert (ending.code, ending.out, ending.err) == (2, "", f"error: {line.format(end)}\n")
    assert store.names() == set()
    assert list(tmp_path.rglob("*.db")) == []


def test_a_bucket_without_searches_says_so(cli: Cli, store: Store) -> None:
    storage = f"s3://{BUCKET}/team"
    assert cli("status", "--storage", storage).out.startswith(f"no searches in {storage};")
    ending = cli("export", "old", "--storage", storage)
    assert ending.code == 2
    assert ending.err == (
        f"error: search must be one of those in {storage} (none yet), got 'old'\n"
    )
