"""Batches of images: on the device, streamed from the disk, mirrored."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from stepsearch.diffusion import batches
from stepsearch.diffusion.batches import Batches
from stepsearch.pixels import scaled

CPU = torch.device("cpu")
N = 50


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Tensor:
    """uint8 on the disk; the first pixel of each image is its number."""
    file = tmp_path_factory.mktemp("pixels") / "pixels"
    pixels = np.random.default_rng(0).integers(0, 256, (N, 3, 4, 4), dtype=np.uint8)
    pixels[:, 0, 0, 0] = np.arange(N)
    pixels[:, 0, 0, 3] = 100 + np.arange(N)
    pixels.tofile(file)
    return torch.from_numpy(np.memmap(file, np.uint8, "c").reshape(pixels.shape))


@pytest.fixture(params=["resident", "streamed"])
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "streamed":
        monkeypatch.setattr(batches, "_MOST_ON_CPU", 0)
    return str(request.param)


def numbers(batch: Tensor) -> list[int]:
    """Of the images: 100 more for a mirrored one."""
    return ((batch[:, 0, 0, 0] + 1) * 127.5).round().int().tolist()


def test_an_epoch_has_every_image_once(kind: str, images: Tensor) -> None:
    stream = Batches(images, seed=0, device=CPU)
    both = numbers(torch.cat([stream.take(start, 10) for start in range(0, 2 * N, 10)]))
    assert sorted(both[:N]) == sorted(both[N:]) == list(range(N))
    assert both[:N] != both[N:]


def test_a_batch_holds_the_images_in_full(kind: str, images: Tensor) -> None:
    batch = Batches(images, seed=0, device=CPU).take(30, 40)
    assert torch.equal(batch, scaled(images[torch.tensor(numbers(batch))]))
    assert batch.dtype == torch.float32


def test_the_stream_can_be_entered_anywhere(kind: str, images: Tensor) -> None:
    whole = Batches(images, seed=3, device=CPU).take(0, 200)
    stream = Batches(images, seed=3, device=CPU)
    for start in (120, 130, 140, 0, 10, 77):
        assert torch.equal(stream.take(start, 10), whole[start : start + 10])


def test_an_epoch_with_flips_has_every_image_and_its_mirror_image(
    kind: str, images: Tensor
) -> None:
    batch = Batches(images, seed=0, device=CPU, flip=True).take(0, 2 * N)
    assert sorted(numbers(batch)) == [*range(N), *range(100, 100 + N)]
    for number, image in zip(numbers(batch), batch, strict=True):
        mirrored = image.flip(2) if number >= 100 else image
        assert torch.equal(mirrored, scaled(images[number % 100]))


@pytest.mark.parametrize("flip", [False, True])
def test_labels_go_with_their_images(kind: str, flip: bool, images: Tensor) -> None:
    labels = torch.arange(N) * 3
    stream = Batches(images, seed=0, device=CPU, flip=flip, labels=labels)
    for start in (0, 10, 20, 70, 95):
        batch, told = stream.labelled(start, 10)
        assert told is not None
        assert told.tolist() == [number % 100 * 3 for number in numbers(batch)]
    assert torch.equal(stream.take(95, 10), batch)
    assert Batches(images, seed=0, device=CPU).labelled(0, 10)[1] is None


def test_latents_are_read_from_the_disk_and_keep_their_scale(kind: str, tmp_path: Path) -> None:
    latents = np.random.default_rng(0).normal(0, 3, (N, 4, 2, 2)).astype(np.float16)
    np.save(tmp_path / "latents.npy", latents)
    mapped = torch.from_numpy(np.load(tmp_path / "latents.npy", mmap_mode="c"))
    batch = Batches(mapped, seed=0, device=CPU).take(0, N)
    assert batch.dtype == torch.float32
    assert sorted(batch.flatten().tolist()) == sorted(latents.flatten().astype(float))


def test_the_next_batch_is_read_while_this_one_is_used(
    monkeypatch: pytest.MonkeyPatch, images: Tensor
) -> None:
    monkeypatch.setattr(batches, "_MOST_ON_CPU", 0)
    stream = Batches(images, seed=0, device=CPU)
    read, starts = stream._read, []
    monkeypatch.setattr(stream, "_read", lambda s, n: starts.append(s) or read(s, n))
    for start in (0, 10, 20):
        stream.take(start, 10)
    stream._thread.shutdown()  # type: ignore[union-attr]
    assert starts == [0, 10, 20, 30]
