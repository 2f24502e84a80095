"""The DDPM U-Net as diffusers has it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field, field_validator, model_validator

from stepsearch.diffusion.datasets import Dataset
from stepsearch.diffusion.denoisers.base import Channels, DenoiserConfig, initial_weights
from stepsearch.diffusion.noise import NoiseProcess
from stepsearch.errors import UserError

if TYPE_CHECKING:
    from diffusers import UNet2DModel


class UNetShape(DenoiserConfig):
    """The blocks of a U-Net that halves the image each level."""

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
    def _groups_divide_channels(self) -> UNetShape:
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


class UNetConfig(UNetShape):
    """The DDPM U-Net (Ho et al. 2020) as diffusers' UNet2DModel, halving the image each level."""

    kind: Literal["unet"] = "unet"

    def build_for(self, data: Dataset, process: NoiseProcess, seed: int) -> UNet2DModel:
        return self.build(data.shape, seed)

    def build(self, shape: tuple[int, int, int], seed: int) -> UNet2DModel:
        """The network for images of `shape` (C, H, W). Raises UserError like `check`."""
        from diffusers import UNet2DModel  # seconds, which checking a search need not take

        self.check(shape)
        (channels, height, width), levels = shape, len(self.channels)
        with initial_weights(seed):
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
