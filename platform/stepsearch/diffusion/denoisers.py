"""Denoisers: configs that build diffusers' own networks, so that diffusers can load them again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import torch
from pydantic import Field, field_validator, model_validator

from stepsearch.config import Config
from stepsearch.errors import UserError

if TYPE_CHECKING:
    from diffusers import UNet2DModel


class DenoiserConfig(Config):
    """Base of every denoiser's config; a subclass adds `kind`, `check` and `build`."""

    def check(self, shape: tuple[int, int, int]) -> None:
        """Raise UserError unless there is such a network for images of `shape` (C, H, W)."""
        raise NotImplementedError

    def build(self, shape: tuple[int, int, int], seed: int) -> torch.nn.Module:
        """A network on the CPU for images of `shape` (C, H, W); its weights depend on `seed` only.

        The network maps (x_t [B, C, H, W], time [B]) to an object whose `sample` is
        [B, C, H, W], like every unconditional network of diffusers. The time is t itself, int64,
        or a float32 where the noise process has another.
        """
        raise NotImplementedError


Channels = Annotated[int, Field(ge=1, le=4096)]


class UNetConfig(DenoiserConfig):
    """The DDPM U-Net (Ho et al. 2020) as diffusers' UNet2DModel, halving the image each level."""

    kind: Literal["unet"] = "unet"
    channels: tuple[Channels, ...] = (16, 32)
    """Channels at each resolution, the full one first."""
    layers: int = Field(default=1, ge=1, le=8)
    """Residual blocks at each resolution."""
    groups: int = Field(default=8, ge=1)
    """Groups of every group norm; divides all channels."""
    attention: Literal["none", "mid"] = "mid"
    """Self-attention at the lowest resolution, or nowhere."""

    @field_validator("channels")
    @classmethod
    def _some_channels(cls, channels: tuple[int, ...]) -> tuple[int, ...]:
        if not 1 <= len(channels) <= 8:
            raise ValueError(f"channels must be 1 to 8 integers, got {channels}")
        return channels

    @model_validator(mode="after")
    def _groups_divide_channels(self) -> UNetConfig:
        if any(width % self.groups for width in self.channels):
            raise ValueError(
                f"channels must be multiples of groups ({self.groups}), got {self.channels}"
            )
        return self

    def check(self, shape: tuple[int, int, int]) -> None:
        """Raise UserError if the image cannot be halved between all levels."""
        _, height, width = shape
        levels = len(self.channels)
        if height % 2 ** (levels - 1) or width % 2 ** (levels - 1):
            raise UserError(
                f"denoiser.channels must have levels that halve {height}x{width} images evenly,"
                f" got {levels} levels"
            )

    def build(self, shape: tuple[int, int, int], seed: int) -> UNet2DModel:
        """Raises UserError like `check`."""
        from diffusers import UNet2DModel  # seconds, which checking a search need not take

        self.check(shape)
        (channels, height, width), levels = shape, len(self.channels)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            return UNet2DModel(
                sample_size=height if height == width else (height, width),
                in_channels=channels,
                out_channels=channels,
                block_out_channels=self.channels,
                layers_per_block=self.layers,
                norm_num_groups=self.groups,
                down_block_types=("DownBlock2D",) * levels,
                up_block_types=("UpBlock2D",) * levels,
                add_attention=self.attention == "mid",
                attention_head_dim=None,
            )


DENOISERS: dict[str, type[DenoiserConfig]] = {"unet": UNetConfig}

AnyDenoiser = UNetConfig
"""The union of all denoisers' configs; a discriminated union once there are two."""
