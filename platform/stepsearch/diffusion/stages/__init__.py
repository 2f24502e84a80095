"""Stages of the timesteps: where a multi-stage denoiser's parts begin and end."""

from stepsearch.diffusion.stages.find import Found, StagesConfig, check_boundaries, find_stages
from stepsearch.diffusion.stages.points import Points, latents, pixels

__all__ = [
    "Found",
    "Points",
    "StagesConfig",
    "check_boundaries",
    "find_stages",
    "latents",
    "pixels",
]
