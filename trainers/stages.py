"""What the images of a denoiser cost, where that may differ from trial to trial."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from stepsearch.diffusion.labels import null_class
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
    denoiser without stages and without classes, where it is the same in all trials."""
    from stepsearch.diffusion.multistage.accounting import stage_costs
    from stepsearch.diffusion.multistage.networks import MultistageModel

    if null_class(denoiser) is not None:
        return {"gflops_image": sampler.evaluations * _flops(denoiser, shape) / 1e9}
    if not isinstance(denoiser, MultistageModel):
        return {}
    times = diffusion_scheduler(process, sampler, prediction_type).timesteps
    stages = denoiser.stage(times.to(denoiser.device))
    evaluations = torch.bincount(stages, minlength=len(denoiser.decoders)).tolist()
    flops = stage_costs(denoiser, shape).flops(evaluations)
    return {"gflops_image": len(times) * flops / 1e9}


def _flops(denoiser: nn.Module, shape: tuple[int, int, int]) -> float:
    """Of one evaluation, counted on `denoiser`; a multiplication and an addition are two."""
    device = next(denoiser.parameters()).device
    image, time = torch.zeros(1, *shape, device=device), torch.zeros(1, device=device)
    label = torch.zeros(1, dtype=torch.int64, device=device)
    # the counter knows the plain attention on every device, the fused one not on a CPU
    with (
        torch.no_grad(),
        sdpa_kernel(SDPBackend.MATH),
        FlopCounterMode(display=False) as counter,
    ):
        denoiser(image, time, class_labels=label)
    return float(counter.get_total_flops())
