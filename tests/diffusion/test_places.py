"""Pictures from elsewhere: a real S3 server, a real web server, and addresses that are wrong."""

from __future__ import annotations

import http.server
import threading
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
import torch
from PIL import Image

from stepsearch.config import parse
from stepsearch.diffusion.datasets import ImagesConfig
from stepsearch.diffusion.datasets.places import Address, fetched
from stepsearch.errors import UserError
from tests.store import BUCKET, Store

PICTURES = f"s3://{BUCKET}/pictures"


@pytest.fixture
def pictures(photographs: list[Image.Image], tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    for number, photograph in enumerate(photographs[:8]):
        (folder / "ab"[number % 2]).mkdir(parents=True, exist_ok=True)
        photograph.save(folder / "ab"[number % 2] / f"{number}.png")
    return folder


def put(store: Store, folder: Path) -> None:
    for file in folder.rglob("*.png"):
        store.client.upload_file(str(file), BUCKET, f"pictures/{file.relative_to(folder)}")


def content(folder: Path) -> dict[str, bytes]:
    files = (file for file in folder.rglob("*") if file.is_file())
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in files}


# --- S3 -----------------------------------------------------------------------------------------


def test_a_bucket_gives_the_data_set_that_its_files_give(store: Store, pictures: Path) -> None:
    put(store, pictures)
    fields = {"size": 16, "channels": 3, "held_out": 0.25}
    here = parse(ImagesConfig, {"path": str(pictures), **fields}).load()
    there = parse(ImagesConfig, {"path": PICTURES, **fields}).load()
    assert there.fingerprint == here.fingerprint
    assert there.name == here.name == "pictures"
    assert torch.equal(there.train, here.train)


def test_a_copy_follows_what_changes_and_copies_nothing_twice(
    store: Store, pictures: Path
) -> None:
    put(store, pictures)
    place = Address.parse(f"{PICTURES}/")
    copy = fetched(place)
    assert content(copy) == content(pictures)
    before = {file: file.stat().st_mtime_ns for file in copy.rglob("*.png")}
    (pictures / "a/0.png").write_bytes((pictures / "a/2.png").read_bytes())
    (pictures / "b/1.png").unlink()
    store.client.delete_object(Bucket=BUCKET, Key="pictures/b/1.png")
    put(store, pictures)
    assert fetched(place) == copy
    assert content(copy) == content(pictures)
    after = {file: file.stat().st_mtime_ns for file in copy.rglob("*.png")}
    assert {f.name for f in after if after[f] != before[f]} == {"0.png"}


def test_a_copy_that_was_cut_off_goes_on(store: Store, pictures: Path) -> None:
    put(store, pictures)
    copy = fetched(Address.parse(PICTURES))
    record = copy.parent / "copied.jsonl"
    lines = record.read_text().splitlines(keepends=True)
    record.write_text("".join(lines[:3]) + lines[3][:7])
    missing = {file for file in copy.rglob("*.png") if file.name in lines[4]}
    for file in missing:
        file.write_bytes(b"half")
    fetched(Address.parse(PICTURES))
    assert missing
    assert content(copy) == content(pictures)
    assert sorted(record.read_text().splitlines(keepends=True)) == sorted(lines)


def test_several_that_ask_at_once_copy_once(store: Store, pictures: Path) -> None:
    put(store, pictures)
    with ThreadPoolExecutor(4) as threads:
        (copy,) = set(threads.map(fetched, [Address.parse(PICTURES)] * 4))
    assert content(copy) == content(pictures)
    assert len((copy.parent / "copied.jsonl").read_text().splitlines()) == 8


def test_one_object_may_be_a_data_set(store: Store, pictures: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as out:
        for name, data in content(pictures).items():
            out.writestr(name, data)
    store.client.upload_file(str(tmp_path / "a.zip"), BUCKET, "a.zip")
    store.client.upload_file(str(tmp_path / "a.zip"), BUCKET, "a.zip.bak")
    copy = fetched(Address.parse(f"s3://{BUCKET}/a.zip"))
    assert copy.read_bytes() == (tmp_path / "a.zip").read_bytes()
    assert len(parse(ImagesConfig, {"path": f"s3://{BUCKET}/a.zip", "size": 8}).load().train) == 6


@pytest.mark.parametrize(
    ("address", "line"),
    [
        (PICTURES, "dataset.path must exist, got 's3://searches/pictures'"),
        ("s3://elsewhere/a", "dataset.path must be a bucket that exists, got 's3://elsewhere'"),
    ],
)
def test_a_bucket_without_them_is_refused(store: Store, address: str, line: str) -> None:
    with pytest.raises(UserError) as error:
        fetched(Address.parse(address))
    assert str(error.value) == line


def test_an_object_that_would_leave_the_copy_is_refused(store: Store, tmp_path: Path) -> None:
    store.client.put_object(Bucket=BUCKET, Key="pictures/../../out.png", Body=b"")
    with pytest.raises(UserError, match=r"files that stay inside it, got '../../out.png'"):
        fetched(Address.parse(PICTURES))
    assert not list(tmp_path.rglob("out.png"))


def test_the_markers_of_empty_folders_are_passed_over(store: Store, pictures: Path) -> None:
    for key in ("pictures/", "pictures/a/", "pictures/empty/"):
        store.client.put_object(Bucket=BUCKET, Key=key, Body=b"")
    put(store, pictures)
    assert content(fetched(Address.parse(PICTURES))) == content(pictures)


# --- the web ------------------------------------------------------------------------------------


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def web(pictures: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    """The address of a server that shows the pictures, a folder and a zip of them."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "machine"))
    with zipfile.ZipFile(pictures / "all.zip", "w") as out:
        for file in pictures.rglob("*.png"):
            out.write(file, file.relative_to(pictures))
    handler = partial(_Quiet, directory=str(pictures))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_file_may_lie_on_the_web(web: str, pictures: Path) -> None:
    copy = fetched(Address.parse(f"{web}/all.zip"))
    assert copy.read_bytes() == (pictures / "all.zip").read_bytes()


def test_a_missing_page_is_refused(web: str) -> None:
    with pytest.raises(UserError, match=r"^dataset.path must be an address that can be read, got"):
        fetched(Address.parse(f"{web}/none.zip"))


def test_a_server_that_is_not_there_is_named_with_the_reason() -> None:
    with pytest.raises(UserError, match=r"got 'http://127.0.0.1:9/a.zip': .*onnect"):
        fetched(Address.parse("http://127.0.0.1:9/a.zip"))


# --- addresses ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "address",
    [
        "ftp://a/b",
        "file:///etc",
        "s3://key:secret@a/b",
        "https://me:word@a/b",
        "s3://A",
        "s3://",
        "https://a/b.zip?X-Amz-Signature=secret",
    ],
)
def test_wrong_addresses_are_refused_and_not_shown(address: str) -> None:
    with pytest.raises(UserError, match=r"^dataset.path must be ") as error:
        parse(ImagesConfig, {"path": address, "size": 8}, "dataset")
    assert "secret" not in str(error.value)
    assert "word@" not in str(error.value)


def test_a_store_without_its_package_says_which() -> None:
    with pytest.raises(UserError, match=r"^dataset.path needs another package, got 'gs://a/b': "):
        fetched(Address.parse("gs://a/b"))


def test_an_address_survives_a_search_file() -> None:
    config = parse(ImagesConfig, {"path": "hf://datasets/a/b/", "size": 8})
    assert config.model_dump(mode="json")["path"] == "hf://datasets/a/b"
    assert parse(ImagesConfig, config.model_dump(mode="json")) == config
