"""Drawn images against diffusers' own pipelines, and their independence of how they are drawn."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from diffusers import DDIMPipeline, DDPMPipeline, UNet2DModel
from torch import Tensor

from stepsearch.config import parse
from stepsearch.diffusion.denoisers import UNetConfig
from stepsearch.diffusion.noise import NoiseProcess, Schedule, VPConfig
from stepsearch.diffusion.seeds import generator
from stepsearch.errors import UserError
from stepsearch.sampling.sampler import SamplerConfig, diffusion_scheduler, generate
from stepsearch.strategies import PredictionType

SHAPE = (1, 8, 8)
KINDS: list[dict[str, Any]] = [{"kind": "ddim"}, {"kind": "ddim", "eta": 0.7}, {"kind": "ddpm"}]
# Rounding that differs with the batch's shape; an untrained network blows it up step by step.
ROUNDING = {"rtol": 0, "atol": 2e-3}
every_kind = pytest.mark.parametrize("fields", KINDS)

Draw = Callable[..., Tensor]


@pytest.fixture
def process() -> NoiseProcess:
    return VPConfig().build()


@pytest.fixture
def denoiser() -> UNet2DModel:
    return UNetConfig(channels=(8, 16)).build(SHAPE, seed=0).eval()


@pytest.fixture
def draw(denoiser: UNet2DModel, process: NoiseProcess) -> Draw:
    def draw(n: int, *, seed: int = 0, **fields: Any) -> Tensor:
        return generate(
            denoiser,
            process,
            SamplerConfig(**fields),
            n,
            shape=SHAPE,
            prediction_type="epsilon",
            seed=seed,
        )

    return draw


def pipeline_images(
    denoiser: UNet2DModel, process: NoiseProcess, config: SamplerConfig, n: int
) -> Tensor:
    """What diffusers' unmodified pipeline draws with the same noise, in [-1, 1]."""
    scheduler = diffusion_scheduler(process, config, "epsilon")
    pipeline = {"ddim": DDIMPipeline, "ddpm": DDPMPipeline}[config.kind](denoiser, scheduler)
    pipeline.set_progress_bar_config(disable=True)
    options = {"eta": config.eta} if config.kind == "ddim" else {}
    images = pipeline(
        batch_size=n,
        generator=[generator("image", 0, i) for i in range(n)],
        num_inference_steps=config.num_steps,
        output_type="np",
        **options,
    ).images
    return torch.from_numpy(images).permute(0, 3, 1, 2) * 2 - 1


@every_kind
def test_images_are_those_of_diffusers_pipeline(
    fields: dict[str, Any], denoiser: UNet2DModel, process: NoiseProcess, draw: Draw
) -> None:
    images = draw(5, **fields)
    expected = pipeline_images(denoiser, process, SamplerConfig(**fields), 5)
    torch.testing.assert_close(images, expected, **ROUNDING)
    assert images.shape == (5, *SHAPE)
    assert images.abs().max() <= 1
    assert images.std() > 0.1


@every_kind
def test_an_image_depends_on_the_seed_and_its_index_only(
    fields: dict[str, Any], draw: Draw
) -> None:
    images = draw(7, **fields)
    torch.testing.assert_close(draw(3, **fields), images[:3], **ROUNDING)
    torch.testing.assert_close(draw(7, batch_size=2, **fields), images, **ROUNDING)
    assert torch.equal(draw(7, **fields), images)
    assert (draw(7, seed=1, **fields) - images).abs().flatten(1).mean(1).min() > 0.01
    assert (images[1:] - images[:-1]).abs().flatten(1).mean(1).min() > 0.01


def test_eta_adds_noise_to_ddim(draw: Draw) -> None:
    assert (draw(4, eta=1.0) - draw(4)).abs().mean() > 0.01


def test_clipping_is_what_the_config_says(draw: Draw) -> None:
    assert not torch.allclose(draw(4, clip_sample=True), draw(4, clip_sample=False))


@pytest.mark.parametrize("kind", ["ddim", "ddpm"])
@pytest.mark.parametrize("schedule", get_args(Schedule))
@pytest.mark.parametrize("prediction_type", VPConfig().targets)
def test_a_perfect_denoiser_gives_back_its_image(
    kind: str, schedule: str, prediction_type: PredictionType
) -> None:
    process = parse(VPConfig, {"schedule": schedule}).build()
    image = torch.rand(SHAPE, generator=torch.Generator().manual_seed(0)) * 2 - 1
    images = generate(
        Perfect(process, image, prediction_type),
        process,
        parse(SamplerConfig, {"kind": kind}),
        2,
        shape=SHAPE,
        prediction_type=prediction_type,
        seed=0,
    )
    torch.testing.assert_close(images, image.expand(2, *SHAPE), rtol=0, atol=2e-3)


class Perfect(torch.nn.Module):
    """Knows the only image there is."""

    def __init__(self, process: NoiseProcess, image: Tensor, target: PredictionType) -> None:
        super().__init__()
        self.process, self.image, self.target = process, image, target

    def forward(self, x: Tensor, t: Tensor) -> Any:
        abar = self.process.alpha_bar[t]
        eps = (x - abar**0.5 * self.image) / (1 - abar) ** 0.5
        t = t.expand(len(x))
        x0 = self.image.expand_as(x)
        sample = self.process.target(x0, eps, t, self.target)
        return type("Output", (), {"sample": sample})


def test_timesteps_trail_down_from_the_noisiest(process: NoiseProcess) -> None:
    scheduler = diffusion_scheduler(process, SamplerConfig(num_steps=4), "epsilon")
    assert scheduler.timesteps.tolist() == [999, 749, 499, 249]


WORKER = """
import sys, torch
from stepsearch.diffusion.denoisers import UNetConfig
from stepsearch.diffusion.noise import VPConfig
from stepsearch.diffusion.workers import Workers
from stepsearch.sampling.sampler import SamplerConfig, generate

rank, meeting, output = int(sys.argv[1]), sys.argv[2], sys.argv[3]
torch.distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=2)
denoiser = UNetConfig(channels=(8, 16)).build((1, 8, 8), seed=0).eval()
images = generate(
    denoiser, VPConfig().build(), SamplerConfig(kind="ddpm", batch_size=2), 7,
    shape=(1, 8, 8), prediction_type="epsilon", seed=0, workers=Workers(rank, 2),
)
torch.save(images, output)
torch.distributed.destroy_process_group()
"""


@pytest.mark.slow
def test_two_workers_draw_what_one_draws(draw: Draw, tmp_path: Path) -> None:
    meeting = (tmp_path / "rendezvous").as_uri()
    platform = str(Path(__file__).parents[2] / "platform")
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, str(rank), meeting, str(tmp_path / str(rank))],
            env={**os.environ, "PYTHONPATH": platform, "OMP_NUM_THREADS": "1"},
        )
        for rank in range(2)
    ]
    assert [worker.wait(timeout=300) for worker in workers] == [0, 0]
    alone = draw(7, kind="ddpm")
    for rank in range(2):
        images = torch.load(tmp_path / str(rank), weights_only=True)
        torch.testing.assert_close(images, alone, **ROUNDING)


def test_a_number_of_steps_that_does_not_divide_t_is_refused(process: NoiseProcess) -> None:
    with pytest.raises(UserError, match=r"^sampler.num_steps must divide T = 1000, got 30$"):
        diffusion_scheduler(process, SamplerConfig(num_steps=30), "epsilon")
    with pytest.raises(UserError, match=r"^sampler.num_steps must divide T = 1000, got 2000$"):
        diffusion_scheduler(process, SamplerConfig(num_steps=2000), "epsilon")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kind": "heun"}, "kind must be one of 'ddim', 'ddpm', 'euler' or 'dpm', got 'heun'"),
        ({"num_steps": 0}, "num_steps must be at least 1, got 0"),
        ({"num_steps": 20_000}, "num_steps must be at most 10000, got 20000"),
        ({"clip_sample": "maybe"}, "clip_sample must be true or false, got 'maybe'"),
        ({"eta": -0.1}, "eta must be at least 0, got -0.1"),
        ({"eta": 1.5}, "eta must be at most 1, got 1.5"),
        ({"guidance": -1}, "guidance must be at least 0, got -1"),
        ({"guidance": 101}, "guidance must be at most 100, got 101"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"steps": 10}, "steps is not a known key"),
    ],
)
def test_bad_fields_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        parse(SamplerConfig, fields, "sampler")
    assert str(error.value).startswith(f"sampler.{message}")
