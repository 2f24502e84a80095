"""The DDPM U-Net as diffusers has it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from stepsearch.diffusion.datasets import Dataset
from stepsearch.diffusion.denoisers.base import (
    Channels,
    Conditional,
    DenoiserConfig,
    initial_weights,
)
from stepsearch.diffusion.denoisers.presets import Preset
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


class UNetConfig(UNetShape, Conditional, Preset):
    """The DDPM U-Net (Ho et al. 2020) as diffusers' UNet2DModel, halving the image each level."""

    PRESETS: ClassVar = {
        "ddpm_cifar10": {
            "channels": (128, 256, 256, 256),
            "layers": 2,
            "groups": 32,
            "attention_levels": (1,),
            "dropout": 0.1,
            "details": "ddpm",
        },
        "ddpm_256": {
            "channels": (128, 128, 256, 256, 512, 512),
            "layers": 2,
            "groups": 32,
            "attention_levels": (4,),
            "details": "ddpm",
        },
        "ldm_celebahq": {
            "channels": (224, 448, 672, 896),
            "layers": 2,
            "groups": 32,
            "attention_levels": (1, 2, 3),
            "head_width": 32,
        },
    }
    """ddpm_cifar10, ddpm_256: Ho et al., appendix B; google/ddpm-cifar10-32 and ddpm-cat-256 on
    the hub, whose configs leave the dropout of training out. ldm_celebahq: 64x64 latents
    (Rombach et al. 2022, table 12; CompVis/ldm-celebahq-256)."""

    kind: Literal["unet"] = "unet"
    preset: Literal["ddpm_cifar10", "ddpm_256", "ldm_celebahq"] | None = None
    """A published size, which fills the fields that are not given."""
    attention_levels: tuple[Annotated[int, Field(ge=0)], ...] = ()
    """Levels with self-attention after each residual block; 0 is the full resolution."""
    head_width: int | None = Field(default=None, ge=1)
    """Channels of one attention head; none: a single head has them all."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of the activations that training drops in every residual block."""
    details: Literal["diffusers", "ddpm"] = "diffusers"
    """What papers do not print: diffusers' defaults, or the original code of DDPM. That has sines
    before cosines in the time's embedding and 1/10000 as its last frequency, pads on two sides
    only before it halves the image, and norms with eps 1e-6 instead of 1e-5."""

    @model_validator(mode="after")
    def _attention_fits_channels(self) -> UNetConfig:
        levels, head = self.attention_levels, self.head_width
        if len(set(levels)) < len(levels) or max(levels, default=0) >= len(self.channels):
            raise ValueError(
                f"attention_levels must be different ones of 0..{len(self.channels) - 1},"
                f" got {levels}"
            )
        attended = [self.channels[level] for level in levels]
        attended += self.channels[-1:] if self.attention == "mid" else ()
        if head is not None and any(width % head for width in attended):
            raise ValueError(
                f"head_width must divide the channels that have attention, {attended}, got {head}"
            )
        return self

    def build_for(self, data: Dataset, process: NoiseProcess, seed: int) -> UNet2DModel:
        return self.build(data.shape, seed, self.classes(data))

    def build(self, shape: tuple[int, int, int], seed: int, classes: int = 0) -> UNet2DModel:
        """The network for images of `shape` (C, H, W), and of so many classes if it is told them.

        Raises UserError like `check`.
        """
        from diffusers import UNet2DModel  # seconds, which checking a search need not take

        self.check(shape)
        channels, height, width = shape
        attends = [level in self.attention_levels for level in range(len(self.channels))]
        with initial_weights(seed):
            return UNet2DModel(
                sample_size=height if height == width else (height, width),
                in_channels=channels,
                out_channels=channels,
                block_out_channels=self.channels,
                layers_per_block=self.layers,
                norm_num_groups=self.groups,
                down_block_types=tuple(f"{'Attn' * has}DownBlock2D" for has in attends),
                up_block_types=tuple(f"{'Attn' * has}UpBlock2D" for has in reversed(attends)),
                add_attention=self.attention == "mid",
                attention_head_dim=self.head_width,
                dropout=self.dropout,
                num_class_embeds=classes + 1 if classes else None,
                **_DETAILS[self.details],
            )


_DETAILS: dict[str, dict[str, Any]] = {
    "diffusers": {},
    "ddpm": {
        "flip_sin_to_cos": False,
        "freq_shift": 1,
        "downsample_padding": 0,
        "norm_eps": 1e-6,
    },
}
