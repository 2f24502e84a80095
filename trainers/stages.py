"""What the images of a denoiser with stages cost."""

from __future__ import annotations

import torch
from torch import nn

from stepsearch.diffusion.noise import NoiseProcess
from stepsearch.sampling.sampler import SamplerConfig, diffusion_scheduler
from stepsearch.strategies import PredictionType


def drawing_cost(
    denoiser: nn.Module,
    process: NoiseProcess,
    sampler: SamplerConfig,
    prediction_type: PredictionType,
    shape: tuple[int, int, int],
) -> dict[str, float]:
    """`gflops_image`, the 10^9 FLOPs of all evaluations that draw one image; nothing for a
    denoiser without stages, where it is the same in all trials."""
    from stepsearch.diffusion.multistage.accounting import stage_costs
    from stepsearch.diffusion.multistage.networks import MultistageModel

    if not isinstance(denoiser, MultistageModel):
        return {}
    times = diffusion_scheduler(process, sampler, prediction_type).timesteps
    stages = denoiser.stage(times.to(denoiser.device))
    evaluations = torch.bincount(stages, minlength=len(denoiser.decoders)).tolist()
    flops = stage_costs(denoiser, shape).flops(evaluations)
    return {"gflops_image": len(times) * flops / 1e9}
