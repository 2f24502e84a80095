"""What a machine keeps of a data set: prepared once, shared, and made anew when it must be."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from stepsearch.config import parse
from stepsearch.diffusion.datasets import Dataset, ImagesConfig
from stepsearch.diffusion.datasets.formats.files import Folder
from stepsearch.errors import UserError
from tests.diffusion.written import PIXELS, SIDE, archive, folder, mnist, png

Loader = Callable[..., Dataset]


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The cache of a new machine."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "machine"))
    return tmp_path / "machine/stepsearch/prepared"


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The pictures that were read."""
    indices: list[int] = []
    read = Folder.read
    monkeypatch.setattr(Folder, "read", lambda self, i: indices.append(i) or read(self, i))
    return indices


def load(path: Path, **fields: object) -> Dataset:
    """As a new process does."""
    from stepsearch.diffusion.datasets import images

    images._load.cache_clear()
    fields = {"path": str(path), "size": SIDE, "channels": 1} | fields
    return parse(ImagesConfig, fields, "dataset").load()


def same(one: Dataset, other: Dataset) -> bool:
    labels = one.train_labels, other.train_labels
    assert labels[0] is not None
    assert labels[1] is not None
    return torch.equal(one.train, other.train) and torch.equal(*labels)  # type: ignore[arg-type]


def test_pictures_are_read_once_a_machine(home: Path, reads: list[int], tmp_path: Path) -> None:
    path = folder(tmp_path)
    first, second = load(path), load(path)
    assert sorted(reads) == list(range(40))
    assert same(first, second)
    assert first.fingerprint == second.fingerprint
    assert first.train.dtype == torch.uint8


def test_all_processes_look_at_one_file(home: Path, tmp_path: Path) -> None:
    train = load(folder(tmp_path)).train
    maps = Path("/proc/self/maps").read_text()
    (pixels,) = home.rglob("pixels")
    assert str(pixels) in maps
    assert pixels.stat().st_size == 40 * train[0].nbytes


def test_a_file_that_changed_is_read_again(home: Path, reads: list[int], tmp_path: Path) -> None:
    path = folder(tmp_path)
    before = load(path)
    file = min(path.rglob("*.png"))
    file.write_bytes(png(255 - PIXELS[0]))
    assert load(path).fingerprint != before.fingerprint
    assert len(reads) == 80
    file.unlink()
    assert len(load(path).train) == 30
    assert len(reads) == 80 + 39


def test_another_size_or_split_is_another_entry(home: Path, tmp_path: Path) -> None:
    path = folder(tmp_path)
    found = [load(path), load(path, size=4), load(path, channels=3), load(path, held_out=0.5)]
    assert len({data.fingerprint for data in found}) == 4
    assert len(list(home.rglob("facts.json"))) == 4
    load(path, name="other", skip_broken=True, flip=True)
    assert len(list(home.rglob("facts.json"))) == 4


def test_what_was_cut_off_begins_anew(home: Path, reads: list[int], tmp_path: Path) -> None:
    path = folder(tmp_path)
    whole = load(path)
    (facts,) = home.rglob("facts.json")
    pixels = facts.parent / "pixels"
    facts.unlink()
    assert same(load(path), whole)
    pixels.unlink()
    pixels.write_bytes(b"half")
    assert same(load(path), whole)
    assert len(reads) == 120
    assert {file.name for file in facts.parent.iterdir()} == {"facts.json", "lock", "pixels"}


def test_without_room_in_the_cache_images_are_kept_in_memory(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    path = folder(tmp_path)
    whole = load(path)
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert same(load(path), whole)
    assert "images are kept in memory" in caplog.text


def test_several_processes_prepare_it_once(home: Path, tmp_path: Path) -> None:
    path = archive(tmp_path)
    code = (
        "import logging; logging.basicConfig(level='INFO');"
        "from stepsearch.diffusion.datasets import ImagesConfig;"
        f"data = ImagesConfig(path={str(path)!r}, size=64, channels=1).load();"
        "print(data.fingerprint)"
    )
    root = Path(__file__).parents[2]
    environment = os.environ | {"PYTHONPATH": f"{root}:{root / 'platform'}"}
    running = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    ended = [process.communicate(timeout=120) for process in running]
    assert len({out for out, _ in ended}) == 1
    assert sum("preparing 40 images" in err for _, err in ended) == 1


def test_the_cache_may_be_deleted_while_it_is_used(home: Path, tmp_path: Path) -> None:
    path = folder(tmp_path)
    data = load(path)
    copy = data.train.clone()
    shutil.rmtree(home)
    assert torch.equal(data.train, copy)
    assert same(load(path), data)


def test_trouble_with_the_disk_is_no_broken_picture(
    home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path, opened = folder(tmp_path), Folder.read

    def read(self: Folder, index: int) -> object:
        if index == 3:
            raise OSError(errno.EMFILE, "Too many open files")
        return opened(self, index)

    monkeypatch.setattr(Folder, "read", read)
    with pytest.raises(UserError, match=r"must be readable, got .*: Too many open files"):
        load(path, skip_broken=True)
    monkeypatch.undo()
    assert len(load(path, skip_broken=True).train) == 30


def test_labels_that_come_later_are_seen(home: Path, tmp_path: Path) -> None:
    path = mnist(tmp_path) / "train-images-idx3-ubyte.gz"
    labels = path.with_name("train-labels-idx1-ubyte")
    content = labels.read_bytes()
    labels.unlink()
    assert load(path).train_labels is None
    labels.write_bytes(content)
    assert load(path).train_labels is not None
