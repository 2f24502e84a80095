"""Trials on latents: pictures are what is looked at, judged and exported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from stepsearch.diffusion.datasets.latents import decoder
from stepsearch.diffusion.workers import ALONE
from stepsearch.errors import UserError
from stepsearch.sampling.sampler import generate
from stepsearch.search.trial import Trial
from tests.trainers.test_judging import Listener
from trainers import trainer
from trainers.evaluation import SAMPLING_SEED
from trainers.judging import judge_of
from trainers.training_trial import CHECKPOINT, run

DENOISERS = {
    "unet": {"kind": "unet", "channels": [8, 16]},
    "dit": {"kind": "dit", "layers": 1},
}


@pytest.fixture
def dataset(encoded: Path) -> dict[str, Any]:
    return {"kind": "latents", "path": str(encoded)}


def small(dataset: dict[str, Any], denoiser: str = "unet", **fields: Any) -> Any:
    parts: dict[str, Any] = {
        "denoiser": DENOISERS[denoiser],
        "training": {"batch_size": 32},
        "sampler": {"num_steps": 2},
        "judge": {"samples": 64, "classifier": {"budget": 1000}},
    }
    return trainer(dataset=dataset, **parts | fields)


@pytest.mark.parametrize("denoiser", DENOISERS)
def test_a_trial_is_judged_by_its_decoded_pictures(
    denoiser: str, dataset: dict[str, Any], tmp_path: Path
) -> None:
    config = small(dataset, denoiser)
    config.check(workers=1)
    prepared = config.prepare(tmp_path / "cache")
    assert config.objective() == "fd_digits"
    assert prepared["real_fd_digits"] > 0
    folder = tmp_path / "trial"
    folder.mkdir()
    listener = Listener()
    run(Trial(0, config, 0, (64,), folder, tmp_path / "cache"), listener)
    (metrics,) = listener.heard
    with Image.open(folder / "pictures/samples_000000064.png") as picture:
        assert (picture.mode, picture.size) == ("L", (530, 530))  # 8 x 8 tiles of 64, 2 between
    data, training = config.dataset.load(), config.loaded(folder / CHECKPOINT, 0, 64)
    images = generate(
        training.ema,
        training.process,
        config.sampler,
        64,
        shape=(4, 4, 4),
        prediction_type="epsilon",
        seed=SAMPLING_SEED,
        decode=decoder(data.vae, torch.device("cpu")),
    )
    assert images.shape == (64, 1, 8, 8)
    judge = judge_of(config.judge, config.dataset, tmp_path / "cache", ALONE.device)
    assert judge.score(images)["fd_digits"] == pytest.approx(metrics["fd_digits"], rel=1e-3)


def test_the_probe_times_the_decoder_and_the_judge_of_pictures(dataset: dict[str, Any]) -> None:
    assert small(dataset).probe(gpu=False).evaluation_s > 0


def test_clipping_is_off_and_refused(dataset: dict[str, Any]) -> None:
    assert small(dataset).sampler.clip_sample is False
    assert small({"kind": "digits"}).sampler.clip_sample is True
    clipping = small(dataset, sampler={"num_steps": 2, "clip_sample": True})
    with pytest.raises(UserError) as caught:
        clipping.check(workers=1)
    assert str(caught.value) == (
        "sampler.clip_sample must be false for latents, which are not in [-1, 1], got true"
    )


def test_pictures_that_are_gone_are_told_before_anything_is_spent(
    dataset: dict[str, Any], tmp_path: Path
) -> None:
    gone = small(dataset | {"pictures": str(tmp_path / "gone")})
    with pytest.raises(UserError, match=r"^the judge needs the pictures that were encoded"):
        gone.check(workers=1)


def test_a_trial_is_exported_with_its_autoencoder(
    dataset: dict[str, Any], encoded: Path, tmp_path: Path
) -> None:
    config = small(dataset)
    training = config.training_for(0, 64)
    training.run(64)
    (tmp_path / "trial").mkdir()
    training.save(tmp_path / "trial" / CHECKPOINT)
    provenance = {
        "search": "latents",
        "trial": 0,
        "seed": 0,
        "images_seen": 64,
        "objective": "fd_digits",
        "metrics": {"fd_digits": 3.0},
        "baseline": {},
    }
    config.export(
        tmp_path / "bundle",
        trial=tmp_path / "trial",
        budget=64,
        recipe="name: latents\n",
        leaderboard=pd.DataFrame({"rank": [1]}),
        provenance=provenance,
    )
    for name in ("config.json", "diffusion_pytorch_model.safetensors"):
        copied = tmp_path / "bundle/pipeline/vae" / name
        assert copied.read_bytes() == (encoded / "vae" / name).read_bytes()
    with Image.open(tmp_path / "bundle/samples.png") as picture:
        assert np.asarray(picture).shape == (530, 530)
    pretrained = {"kind": "pretrained", "path": str(tmp_path / "bundle/pipeline")}
    small(dataset).model_copy(update={"denoiser": trainer(denoiser=pretrained).denoiser}).check(
        workers=1
    )
