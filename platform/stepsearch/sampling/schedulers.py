"""diffusers' schedulers for each kind of noise process: those that are exact on it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from stepsearch.diffusion.noise import NoiseProcess
from stepsearch.strategies.base import PredictionType

if TYPE_CHECKING:
    from stepsearch.sampling.sampler import SamplerConfig

Scheduler = Any
"""One of diffusers' schedulers, which share no type that says how they step."""


def _ddpm(process: NoiseProcess, config: SamplerConfig, target: PredictionType) -> Scheduler:
    from diffusers import DDPMScheduler

    return DDPMScheduler(**_discrete(process, config, target))


def _ddim(process: NoiseProcess, config: SamplerConfig, target: PredictionType) -> Scheduler:
    from diffusers import DDIMScheduler

    return DDIMScheduler(**_discrete(process, config, target))


def _discrete(
    process: NoiseProcess, config: SamplerConfig, target: PredictionType
) -> dict[str, Any]:
    """Timesteps T/K - 1, 2T/K - 1, ..., T - 1 for K = num_steps.

    That is "trailing" spacing, which starts at the noisiest timestep (Lin et al. 2024, table 2).
    """
    return process.scheduler_config() | {
        "prediction_type": target,
        "clip_sample": config.clip_sample,
        "timestep_spacing": "trailing",
    }


def _edm_euler(process: NoiseProcess, *_: object) -> Scheduler:
    from diffusers import EDMEulerScheduler

    return EDMEulerScheduler(**process.scheduler_config())


def _edm_dpm(process: NoiseProcess, *_: object) -> Scheduler:
    from diffusers import EDMDPMSolverMultistepScheduler

    return EDMDPMSolverMultistepScheduler(**process.scheduler_config())


def _flow_euler(process: NoiseProcess, *_: object) -> Scheduler:
    from diffusers import FlowMatchEulerDiscreteScheduler

    return FlowMatchEulerDiscreteScheduler(**process.scheduler_config())


SCHEDULERS: dict[str, dict[str, Callable[..., Scheduler]]] = {
    "vp": {"ddim": _ddim, "ddpm": _ddpm},
    "edm": {"euler": _edm_euler, "dpm": _edm_dpm},
    "flow": {"euler": _flow_euler},
}
"""By the process's kind and by the sampler's; called with process, config and target."""
