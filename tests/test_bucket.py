"""The door to S3, against a server that checks signatures and rights."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from stepsearch.bucket import Away, Bucket, Refused, S3Url, patiently
from tests.store import BUCKET, Store


@pytest.fixture
def bucket(store: Store) -> Bucket:
    return Bucket(S3Url.parse(f"s3://{BUCKET}/team/"))


def test_an_object_is_written_read_listed_and_removed(bucket: Bucket, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"some bytes")
    bucket.upload(tmp_path / "file", "old/file")
    assert bucket.write("note", b"1")
    found = bucket.read("note")
    assert found is not None
    assert found.data == b"1"
    assert 0 <= found.age_s < 60
    assert bucket.names() == {"note": 1, "old/file": 10}
    assert bucket.folders() == ["old"]
    bucket.download("old/file", tmp_path / "new" / "copy")
    assert (tmp_path / "new" / "copy").read_bytes() == b"some bytes"
    bucket.remove("old/")
    assert bucket.names() == {"note": 1}
    assert bucket.read("old/file") is None
    bucket.download("old/file", tmp_path / "new" / "nothing")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["copy"]


def test_of_two_that_write_for_one_place_one_succeeds(bucket: Bucket) -> None:
    tag = bucket.write("lock", b"1", instead_of="")
    assert tag
    assert not bucket.write("lock", b"2", instead_of="")
    assert bucket.write("lock", b"3", instead_of=tag)
    assert not bucket.write("lock", b"4", instead_of=tag)
    assert not bucket.write("gone", b"5", instead_of=tag)
    assert bucket.names() == {"lock": 1}


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("AWS_SECRET_ACCESS_KEY", "wrong", "read and write, got 's3://searches/a': Signature"),
        (
            "AWS_ACCESS_KEY_ID",
            "wrong",
            "read and write, got 's3://searches/a': InvalidAccessKeyId",
        ),
        ("AWS_PROFILE", "nobody", r"asked, got 's3://searches/a': The config profile \(nobody\)"),
        ("AWS_ENDPOINT_URL", "here", "asked, got 's3://searches/a': Invalid endpoint: here"),
    ],
)
def test_what_will_not_be_mended_by_waiting_is_refused(
    store: Store, monkeypatch: pytest.MonkeyPatch, name: str, value: str, reason: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(Refused, match=f"^storage must be a bucket that .*{reason}"):
        Bucket(S3Url(f"s3://{BUCKET}/a")).names()


def test_a_bucket_that_does_not_exist_is_refused(store: Store) -> None:
    for act in (lambda b: b.names(), lambda b: b.read("x"), lambda b: b.write("x", b"")):
        with pytest.raises(Refused, match=r"must be a bucket that exists, got 's3://nowhere/a'$"):
            act(Bucket(S3Url("s3://nowhere/a")))


def test_a_server_that_does_not_answer_is_away_and_its_password_is_not_shown(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://me:secret@127.0.0.1:9")
    with pytest.raises(Away, match=r"at http://\*\*\*@127\.0\.0\.1:9: EndpointConnectionError$"):
        Bucket(S3Url(f"s3://{BUCKET}/a")).names()


def test_who_is_patient_waits_for_the_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path / "server.log")
    store.enter(monkeypatch, tmp_path)
    bucket = Bucket(S3Url(f"s3://{BUCKET}/team"))
    store.process.kill()
    store.process.wait()
    coming = threading.Timer(6.0, store.start)  # longer than boto3 tries by itself
    coming.start()
    signs: list[float] = []
    with pytest.raises(Refused, match="must be a bucket that exists"):  # it was in memory
        patiently(bucket.names, lambda: signs.append(time.monotonic()))
    coming.join()
    store.close()
    assert signs


WRONG = (
    "s3://key:secret@bucket/a", "s3://bucket?secret=x", "gs://bucket/a", "s3://b", "s3://",
    "s3://bucket/../a", "s3://bucket//a", "s3://bucket/a b", "s3://Bucket/a", "s3:/bucket/a://",
)  # fmt: skip


@pytest.mark.parametrize("text", WRONG)
def test_a_wrong_address_is_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(ValueError, match=r"^storage must be a folder or s3://bucket/prefix") as e:
        S3Url.parse(text)
    assert "secret" not in str(e.value)


def test_a_copy_lies_where_only_its_address_and_server_say(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    homes = set()
    for server in ("http://127.0.0.1:1", "http://127.0.0.1:2"):
        monkeypatch.setenv("AWS_ENDPOINT_URL", server)
        homes |= {S3Url.parse(f"s3://bucket{end}").home for end in ("", "/", "/a", "/a/b")}
    assert len(homes) == 6
    assert all(home.parent == tmp_path / "stepsearch" for home in homes)
