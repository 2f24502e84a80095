"""Encoding by Ray actors: the same latents, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from stepsearch.diffusion.datasets import ImagesConfig, shards
from stepsearch.diffusion.datasets.encoding import Encoding
from stepsearch.diffusion.datasets.shards import Run, encode_here
from stepsearch.errors import UserError
from stepsearch.search.encoders import encode_on_ray
from tests.latents import write_digits, write_vae


@pytest.fixture
def digits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(shards, "_MOST", 16)
    return write_digits(tmp_path / "digits.npz", 100)


def latents(digits: Path, vae: Path, name: str, run: Run) -> np.ndarray[tuple[int, ...], np.dtype]:
    config = ImagesConfig(path=digits, size=8, flip=True)
    Encoding.of(config, vae, digits.parent / name).run(run)
    return np.load(digits.parent / name / "latents.npy")


def test_actors_give_the_latents_of_one_process(
    ray_cluster: None, digits: Path, vae: Path
) -> None:
    here = latents(digits, vae, "here", encode_here(4))
    there = latents(digits, vae, "there", encode_on_ray("local", None, 4))
    assert here.shape == (180, 4, 4, 4)
    np.testing.assert_allclose(there.astype(float), here.astype(float), rtol=2e-3, atol=2e-3)


def test_more_actors_than_the_cluster_holds_are_refused(
    ray_cluster: None, digits: Path, vae: Path
) -> None:
    with pytest.raises(UserError, match=r"^--workers must be at most 2, the cluster's CPUs, got"):
        latents(digits, vae, "there", encode_on_ray("local", 3, 4))


def test_an_actors_error_is_that_of_the_autoencoder(
    ray_cluster: None, digits: Path, tmp_path: Path
) -> None:
    write_vae(tmp_path / "vae", scaling_factor=1e9)
    with pytest.raises(UserError, match=r"^--vae must give latents within the range of float16"):
        latents(digits, tmp_path / "vae", "there", encode_on_ray("local", 2, 4))
