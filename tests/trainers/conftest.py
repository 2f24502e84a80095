"""Who listens to a trial, and a diffusers folder with a denoiser that hears its timestep."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from diffusers import DDPMPipeline, DDPMScheduler

from stepsearch.diffusion.denoisers import UNetConfig
from stepsearch.diffusion.noise import VPConfig
from trainers.stopwatch import OF_THE_CLOCK

MILESTONES = (64, 128, 192)


class Listener:
    """Lets a trial go on until it has reported `last`; keeps what was reported."""

    def __init__(self, last: int = MILESTONES[-1]) -> None:
        self.last = last
        self.heard: dict[int, dict[str, float]] = {}

    def __call__(self, metrics: Mapping[str, float]) -> bool:
        images_seen = int(metrics["images_seen"])
        self.heard[images_seen] = {k: v for k, v in metrics.items() if k not in OF_THE_CLOCK}
        return images_seen < self.last

    def progress(self, images_seen: int) -> bool:
        return True


@pytest.fixture(scope="session")
def saved_pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the digits, with new weights."""
    folder = tmp_path_factory.mktemp("checkpoints") / "pipeline of digits"
    scheduler = DDPMScheduler(**VPConfig().build().scheduler_config())
    denoiser = UNetConfig(channels=(8, 16)).build((1, 8, 8), seed=0)
    with torch.no_grad():
        for name, weights in denoiser.named_parameters():
            weights.mul_(8 if "time_emb" in name else 4 if "conv_out" in name else 1)
    DDPMPipeline(unet=denoiser, scheduler=scheduler).save_pretrained(folder)
    return folder
