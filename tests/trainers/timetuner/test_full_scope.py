"""Trials whose tau the conversion of a v-network's output sees too, and what they export."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMPipeline, DDPMPipeline, DDPMScheduler

from stepsearch.diffusion.denoisers import UNetConfig
from stepsearch.diffusion.noise import VPConfig
from stepsearch.diffusion.seeds import generator
from stepsearch.sampling.timetuner import draw, load_tuned
from stepsearch.sampling.timetuner.tuned_timesteps import attach, load, scheduler
from tests.sampling.timetuner.in_range import inside
from tests.trainers.timetuner.conftest import exported, heard
from trainers.drawing_trial import TIMES
from trainers.subject import subject_of


@pytest.fixture(scope="module")
def predicts_v(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The folder of a denoiser that predicts v."""
    folder = tmp_path_factory.mktemp("checkpoints") / "digits by v"
    noise = VPConfig().build().scheduler_config()
    denoiser = UNetConfig(channels=(8, 16)).build((1, 8, 8), 0)
    plain = DDPMScheduler(**noise, prediction_type="v_prediction")
    DDPMPipeline(unet=denoiser, scheduler=plain).save_pretrained(folder)
    return {"kind": "folder", "path": str(folder)}


def test_a_trial_of_a_v_network_is_tuned_and_exported_with_the_full_scope(
    config: Any, trial: Any, predicts_v: Any, tmp_path: Path
) -> None:
    """Its gradient is another than that of the embedding, and diffusers draws its images."""
    taus, scores = [], []
    for scope in ("embedding", "full"):
        times = {"parallel": 1.0, "r": (0.0, -0.2, -0.2, -0.2)}
        tuning = config(checkpoint=predicts_v, tau_scope=scope, times=times)
        tuning.check(workers=1)
        made = trial(tuning)
        scores.append(heard(made)[0]["pixel_fd"])
        taus.append(json.loads((made.folder / TIMES).read_text())["tau"])
    assert taus[0] != taus[1]
    assert scores[0] != scores[1]

    out = exported(made, tmp_path / "out")
    file = load_tuned(out / "timetuner.json")
    assert (file.tau_scope, file.prediction_type) == ("full", "v_prediction")
    assert file.tau == tuple(taus[1])
    at = subject_of(tuning.checkpoint, tuning.dataset, torch.device("cpu"))
    expected = draw(
        at.network(tuning.sampler, "full"), torch.tensor(file.tau), 4, shape=(1, 8, 8), seed=7
    )
    schedule = load(out / "timetuner.json")
    pipeline = DDPMPipeline.from_pretrained(predicts_v["path"])
    attach(pipeline.unet, schedule)
    pipeline = DDIMPipeline(pipeline.unet, scheduler(schedule))
    pipeline.set_progress_bar_config(disable=True)
    noise = [generator("image", 7, i) for i in range(4)]
    images = pipeline(4, noise, num_inference_steps=4, output_type="np").images
    assert inside(expected) > 0.5
    found = torch.as_tensor(images).permute(0, 3, 1, 2)
    assert torch.equal(found, (expected / 2 + 0.5).clamp(0, 1))
