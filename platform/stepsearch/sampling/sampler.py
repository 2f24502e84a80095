"""Drawing images with diffusers' own samplers, reproducibly one by one."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from stepsearch.config import Config
from stepsearch.diffusion.labels import null_class
from stepsearch.diffusion.noise import NoiseProcess
from stepsearch.diffusion.seeds import generator
from stepsearch.diffusion.workers import ALONE, Workers
from stepsearch.errors import UserError
from stepsearch.pixels import clipped
from stepsearch.sampling.guidance import Predict, labels_of, predictor
from stepsearch.sampling.schedulers import SCHEDULERS, Scheduler
from stepsearch.strategies.base import PredictionType


class SamplerConfig(Config):
    """How images are drawn: a part of every measured quality, so nothing is left to defaults."""

    kind: Literal["ddim", "ddpm", "euler", "dpm"] = "ddim"
    """On vp: DDIM (Song et al. 2021) or ancestral DDPM sampling (Ho et al. 2020). On edm: Euler
    steps or DPM-Solver++ 2M (Lu et al. 2022) over EDM's sigmas. On flow: Euler steps."""
    num_steps: int = Field(default=10, ge=1, le=10_000)
    """Network evaluations an image, or half of them with guidance; for ddim and ddpm a divisor of
    T."""
    guidance: float = Field(default=1.0, ge=0, le=100)
    """Of a denoiser with classes: how far its output goes from that of the null class towards that
    of the image's. 1 is the image's, and none of the null class is asked for."""
    clip_sample: bool = True
    """Clip each step's prediction of x0 to [-1, 1]; euler and dpm never do. Not for latents."""
    eta: float = Field(default=0.0, ge=0, le=1)
    """DDIM's noise: 0 is deterministic, 1 as noisy as DDPM. Without effect on the others."""
    batch_size: int = Field(default=256, ge=1)
    """Images drawn at a time; changes them by rounding only."""

    @property
    def evaluations(self) -> int:
        """Of the network, for an image."""
        return self.num_steps * (1 if self.guidance == 1 else 2)

    def check(self, process: NoiseProcess) -> None:
        """Raise UserError unless diffusers has this sampler for the process."""
        kinds = SCHEDULERS[process.kind]
        if self.kind not in kinds:
            raise UserError(
                f"sampler.kind must be {' or '.join(kinds)} on noise.kind {process.kind},"
                f" got {self.kind!r}"
            )
        # or diffusers would miss timesteps
        if self.kind in ("ddim", "ddpm") and process.T % self.num_steps:
            raise UserError(f"sampler.num_steps must divide T = {process.T}, got {self.num_steps}")


def diffusion_scheduler(
    process: NoiseProcess, config: SamplerConfig, prediction_type: PredictionType
) -> Scheduler:
    """diffusers' scheduler, its timesteps set, for one batch: some count their steps.

    Raises UserError where the sampler does not fit the process.
    """
    config.check(process)
    scheduler = SCHEDULERS[process.kind][config.kind](process, config, prediction_type)
    scheduler.set_timesteps(config.num_steps)
    return scheduler


def generate(
    denoiser: nn.Module,
    process: NoiseProcess,
    config: SamplerConfig,
    n: int,
    *,
    shape: tuple[int, int, int],
    prediction_type: PredictionType,
    seed: int,
    class_shares: Tensor | None = None,
    workers: Workers = ALONE,
    tick: Callable[[], object] = lambda: None,
    decode: Callable[[Tensor], Tensor] = clipped,
) -> Tensor:
    """n images [n, C, H, W] in [-1, 1], on the CPU of every worker.

    `decode` makes them of what the denoiser draws, whose (C, H, W) is `shape`. A denoiser with
    classes draws them in the proportions `class_shares` [classes], those of its data (see
    `labels_of`). `tick` is called after each batch, on all workers equally often.

    All noise of image i comes from a generator of its own that depends on (seed, i) only, and its
    class depends on i, so neither n, nor the batch size, nor the number of workers changes an
    image but by rounding. Each worker draws an equally long run of images; a surplus beyond n is
    dropped.
    """
    from diffusers.utils.torch_utils import randn_tensor

    told = None if null_class(denoiser) is None else class_shares
    each = math.ceil(n / workers.size)
    start = workers.rank * each
    batches = []
    for first in range(start, start + each, config.batch_size):
        last = min(first + config.batch_size, start + each)
        noise = [generator("image", seed, i) for i in range(first, last)]
        x_T = randn_tensor((len(noise), *shape), generator=noise, device=workers.device)
        scheduler = diffusion_scheduler(process, config, prediction_type)
        labels = None if told is None else labels_of(told, first, last).to(workers.device)
        predict = predictor(denoiser, labels, config.guidance)
        batches.append(decode(denoise(predict, scheduler, x_T, noise, eta=config.eta)))
        tick()
    return _gather(torch.cat(batches), workers)[:n].cpu()


@torch.no_grad()
def denoise(
    predict: Predict,
    scheduler: Scheduler,
    x_T: Tensor,
    noise: list[torch.Generator],
    *,
    eta: float = 0.0,
) -> Tensor:
    """Run the sampler from unit noise x_T [N, C, H, W]; `noise` feeds its random steps, image by
    image."""
    from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler

    options = {"eta": eta} if isinstance(scheduler, DDIMScheduler) else {}
    scales = not isinstance(scheduler, FlowMatchEulerDiscreteScheduler)
    x = x_T * scheduler.init_noise_sigma if scales else x_T
    for t in scheduler.timesteps:
        seen = scheduler.scale_model_input(x, t) if scales else x
        x = scheduler.step(predict(seen, t), t, x, generator=noise, **options).prev_sample
    return x


def _gather(images: Tensor, workers: Workers) -> Tensor:
    """The images of all workers in the order of their ranks."""
    if workers.size == 1:
        return images
    parts = [torch.empty_like(images) for _ in range(workers.size)]
    torch.distributed.all_gather(parts, images.contiguous())
    return torch.cat(parts)
