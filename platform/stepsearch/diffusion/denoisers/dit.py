"""The diffusion transformer as diffusers has it."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field, field_validator

from stepsearch.diffusion.datasets import Dataset
from stepsearch.diffusion.denoisers.base import Conditional, DenoiserConfig, initial_weights
from stepsearch.diffusion.denoisers.presets import Preset
from stepsearch.diffusion.noise import NoiseProcess
from stepsearch.errors import UserError

if TYPE_CHECKING:
    from stepsearch.diffusion.denoisers.unconditional_dit import UnconditionalDiT

Layers = Annotated[int, Field(ge=1, le=64)]

Size = Literal[
    "S/2", "S/4", "S/8", "B/2", "B/4", "B/8", "L/2", "L/4", "L/8", "XL/2", "XL/4", "XL/8"
]

_SIZES = {
    "S": {"layers": 12, "heads": 6, "head_width": 64},
    "B": {"layers": 12, "heads": 12, "head_width": 64},
    "L": {"layers": 24, "heads": 16, "head_width": 64},
    "XL": {"layers": 28, "heads": 16, "head_width": 72},
}
"""Table 1 of the DiT paper; S/2 and XL/2 are in Table 6 of SpeeD's supplement too."""


class TransformerShape(DenoiserConfig):
    """The tokens of a transformer, `heads` x `head_width` wide."""

    patch: int = Field(default=2, ge=1, le=64)
    """Pixels along a side of a token."""
    heads: int = Field(default=2, ge=1, le=64)
    head_width: int = Field(default=16, ge=4, le=256)

    @field_validator("head_width")
    @classmethod
    def _room_for_positions(cls, width: int) -> int:
        if width % 4:
            raise ValueError(f"head_width must be a multiple of 4, got {width}")
        return width

    def check(self, shape: tuple[int, int, int]) -> None:
        """Raise UserError unless the images are squares of whole patches."""
        _, height, width = shape
        if height != width or height % self.patch:
            raise UserError(
                f"denoiser.patch must divide square images, got {self.patch} for {height}x{width}"
            )


class DiTConfig(TransformerShape, Conditional, Preset):
    """The diffusion transformer (Peebles & Xie 2023) as diffusers' DiTTransformer2DModel.

    It predicts no variance: one output channel for each of the image's.
    """

    PRESETS: ClassVar = {
        f"{size}/{patch}": {**_SIZES[size], "patch": patch}
        for size, patch in product(_SIZES, (2, 4, 8))
    }

    kind: Literal["dit"] = "dit"
    preset: Size | None = None
    """A size of the DiT paper and its patch, which fill the fields that are not given."""
    layers: Layers = 4
    """Transformer blocks."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of the activations that training drops in every block."""

    def build_for(self, data: Dataset, process: NoiseProcess, seed: int) -> UnconditionalDiT:
        return self.build(data.shape, seed, self.classes(data))

    def build(self, shape: tuple[int, int, int], seed: int, classes: int = 0) -> UnconditionalDiT:
        """The network for images of `shape` (C, H, W), and of so many classes if it is told them.

        Raises UserError like `check`.
        """
        from stepsearch.diffusion.denoisers.unconditional_dit import (
            ClassConditionalDiT,
            UnconditionalDiT,
        )

        self.check(shape)
        channels, side, _ = shape
        with initial_weights(seed):
            network: UnconditionalDiT = (ClassConditionalDiT if classes else UnconditionalDiT)(
                sample_size=side,
                in_channels=channels,
                out_channels=channels,
                patch_size=self.patch,
                num_layers=self.layers,
                num_attention_heads=self.heads,
                attention_head_dim=self.head_width,
                dropout=self.dropout,
                num_embeds_ada_norm=classes,
            )
        return network
