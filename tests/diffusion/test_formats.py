"""The formats of pictures: all of them hold the same digits, and give the same data set."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from stepsearch.diffusion.datasets.formats import FORMATS, format_of, open_pictures
from tests.diffusion.written import (
    LABELS,
    PIXELS,
    SIDE,
    TEST,
    TRAIN,
    WRITERS,
    cifar,
    load,
    png,
)


def pairs(images: torch.Tensor, labels: torch.Tensor | None) -> list[tuple[float, ...]]:
    """What does not depend on the order."""
    assert labels is not None
    return sorted(map(tuple, torch.cat([images.flatten(1), labels[:, None]], 1).tolist()))


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_gives_the_same_data_set(name: str, tmp_path: Path) -> None:
    path = WRITERS[name](tmp_path)
    assert format_of(path).name == name
    data = load(path)
    images = torch.from_numpy(PIXELS).float()[:, None] / 127.5 - 1
    labels = torch.from_numpy(LABELS).float()
    assert pairs(data.train, data.train_labels) == pairs(images[:TRAIN], labels[:TRAIN])
    assert pairs(data.held_out, data.held_out_labels) == pairs(images[TRAIN:], labels[TRAIN:])
    assert data.name == "digits"


def test_every_format_is_tested() -> None:
    assert {*WRITERS, "CIFAR for Python"} == {format.name for format in FORMATS}


@pytest.mark.parametrize("name", WRITERS)
def test_a_fraction_takes_the_place_of_the_own_test_part(name: str, tmp_path: Path) -> None:
    data = load(WRITERS[name](tmp_path), held_out=0.3)
    assert len(data.train) + len(data.held_out) == TRAIN
    assert 3 <= len(data.held_out) <= 12


@pytest.mark.parametrize("name", WRITERS)
def test_classes_are_called_what_their_authors_call_them(name: str, tmp_path: Path) -> None:
    assert list(open_pictures(WRITERS[name](tmp_path)).classes) == list("0123456789")


def test_folders_train_and_test_are_classes_where_others_are_beside_them(tmp_path: Path) -> None:
    for part in ("train", "test", "bus"):
        (tmp_path / part).mkdir()
        (tmp_path / part / "0.png").write_bytes(png(PIXELS[0]))
    pictures = open_pictures(tmp_path)
    assert list(pictures.classes) == ["bus", "test", "train"]
    assert pictures.held_out is None


@pytest.mark.parametrize(
    ("images", "labels"), [("arr_0", "arr_1"), ("images", "labels"), ("x", "y")]
)
def test_an_npz_may_have_one_part(images: str, labels: str, tmp_path: Path) -> None:
    colour = PIXELS[..., None].repeat(3, axis=3)
    np.savez(tmp_path / "a.npz", **{images: colour, labels: LABELS[:, None]})
    data = load(tmp_path / "a.npz", channels=3)
    assert data.shape == (3, SIDE, SIDE)
    assert len(data.train) + len(data.held_out) == TRAIN + TEST
    assert data.train_labels is not None


def test_an_npz_may_have_its_channels_first(tmp_path: Path) -> None:
    np.savez(tmp_path / "first.npz", images=PIXELS[:, None].repeat(3, axis=1))
    np.savez(tmp_path / "last.npz", images=PIXELS[..., None].repeat(3, axis=3))
    first, last = load(tmp_path / "first.npz"), load(tmp_path / "last.npz")
    assert torch.equal(first.train, last.train)
    assert first.train_labels is None


def test_a_parquet_without_names_or_with_words_has_its_classes(tmp_path: Path) -> None:
    images = [png(pixels) for pixels in PIXELS]
    words = np.array(["odd", "even"])[(LABELS % 2 == 0).astype(int)]
    pq.write_table(pa.table({"img": images, "label": words}), tmp_path / "words.parquet")
    numbers = pa.table({"img": images, "label": LABELS.astype(int) * 3})
    pq.write_table(numbers, tmp_path / "numbers.parquet")
    assert open_pictures(tmp_path / "words.parquet").classes == ["even", "odd"]
    assert list(open_pictures(tmp_path / "numbers.parquet").classes)[:3] == ["0", "3", "6"]
    hidden = pa.table({"img": images, "label": [-1] * len(images)})
    pq.write_table(hidden, tmp_path / "hidden.parquet")
    assert open_pictures(tmp_path / "hidden.parquet").labels is None


@pytest.mark.parametrize("kind", [100, 20])
@pytest.mark.parametrize("unpacked", [False, True])
def test_cifar_is_read_as_published(kind: int, unpacked: bool, tmp_path: Path) -> None:
    path, pixels = cifar(tmp_path, kind)
    if unpacked:
        shutil.unpack_archive(path, tmp_path)
        path = tmp_path / f"cifar-{kind}"
    assert format_of(path).name == "CIFAR for Python"
    data = load(path, size=32, channels=3)
    expected = torch.from_numpy(pixels).float() / 127.5 - 1
    assert torch.equal(data.train, expected[:10])
    assert torch.equal(data.held_out, expected[10:])
    assert data.held_out_labels is not None
    assert data.held_out_labels.tolist() == [10, 11]
    assert list(open_pictures(path).classes)[:2] == ["class 0", "class 1"]
