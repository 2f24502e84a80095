"""Denoisers: configs that build networks which diffusers can load again."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from stepsearch.diffusion.denoisers.base import DenoiserConfig
from stepsearch.diffusion.denoisers.dit import DiTConfig
from stepsearch.diffusion.denoisers.multistage import MultistageDiTConfig, MultistageUNetConfig
from stepsearch.diffusion.denoisers.pretrained import PretrainedConfig
from stepsearch.diffusion.denoisers.unet import UNetConfig

DENOISERS: dict[str, type[DenoiserConfig]] = {
    "unet": UNetConfig,
    "dit": DiTConfig,
    "multistage_unet": MultistageUNetConfig,
    "multistage_dit": MultistageDiTConfig,
    "pretrained": PretrainedConfig,
}


def _unet_unless_said(denoiser: Any) -> Any:
    return {"kind": "unet"} | denoiser if isinstance(denoiser, dict) else denoiser


AnyDenoiser = Annotated[
    Annotated[
        UNetConfig | DiTConfig | MultistageUNetConfig | MultistageDiTConfig | PretrainedConfig,
        Field(discriminator="kind"),
    ],
    BeforeValidator(_unet_unless_said),
]

__all__ = [
    "DENOISERS",
    "AnyDenoiser",
    "DenoiserConfig",
    "DiTConfig",
    "MultistageDiTConfig",
    "MultistageUNetConfig",
    "PretrainedConfig",
    "UNetConfig",
]
