"""Noise processes by name: how images turn into noise over T timesteps."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from stepsearch.diffusion.noise.base import NoiseProcess, ProcessConfig
from stepsearch.diffusion.noise.edm import EDMConfig
from stepsearch.diffusion.noise.flow import FlowConfig
from stepsearch.diffusion.noise.vp import Schedule, VPConfig

PROCESSES: dict[str, type[ProcessConfig]] = {
    "vp": VPConfig,
    "edm": EDMConfig,
    "flow": FlowConfig,
}


def _vp_unless_said(noise: Any) -> Any:
    return {"kind": "vp"} | noise if isinstance(noise, dict) else noise


AnyNoise = Annotated[
    Annotated[VPConfig | EDMConfig | FlowConfig, Field(discriminator="kind")],
    BeforeValidator(_vp_unless_said),
]

__all__ = [
    "PROCESSES",
    "AnyNoise",
    "EDMConfig",
    "FlowConfig",
    "NoiseProcess",
    "ProcessConfig",
    "Schedule",
    "VPConfig",
]
