"""A diffusers folder with a denoiser of the digits that has new weights and hears its timestep."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import DDPMPipeline, DDPMScheduler

from stepsearch.diffusion.denoisers import UNetConfig
from stepsearch.diffusion.noise import VPConfig


@pytest.fixture(scope="session")
def saved_pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoints") / "pipeline of digits"
    scheduler = DDPMScheduler(**VPConfig().build().scheduler_config())
    denoiser = UNetConfig(channels=(8, 16)).build((1, 8, 8), seed=0)
    with torch.no_grad():
        for name, weights in denoiser.named_parameters():
            weights.mul_(8 if "time_emb" in name else 4 if "conv_out" in name else 1)
    DDPMPipeline(unet=denoiser, scheduler=scheduler).save_pretrained(folder)
    return folder
