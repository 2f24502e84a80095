"""Networks in folders as diffusers writes them: what config.json says, within bounds."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import BeforeValidator, ConfigDict, Field

from stepsearch.config import Config
from stepsearch.diffusion.datasets import Dataset
from stepsearch.diffusion.denoisers.base import Channels
from stepsearch.diffusion.denoisers.dit import Layers
from stepsearch.diffusion.weights import LARGEST_CONFIG, check_weights, load_weights
from stepsearch.errors import UserError
from stepsearch.json_file import parse_file, read_mapping

_MOST_CLASSES = 100_000

_Side = Annotated[int, Field(ge=1, le=1024)]


def _twice(size: Any) -> Any:
    return (size, size) if isinstance(size, int) else size


class SavedNetwork(Config, ABC):
    """The keys of config.json that decide whether the network fits, and how large it is."""

    model_config = ConfigDict(extra="ignore")

    in_channels: Channels
    out_channels: Channels | None = None
    sample_size: Annotated[tuple[_Side, _Side], BeforeValidator(_twice)]
    quantization_config: None = None

    needs_labels: ClassVar[bool]
    """Whether it cannot be called without them if it has classes."""

    @property
    @abstractmethod
    def classes(self) -> int:
        """Those that it knows besides the null class; 0: it is told none."""

    @property
    def channels(self) -> tuple[int, int]:
        """In and out."""
        return self.in_channels, self.out_channels or self.in_channels

    @abstractmethod
    def network(self) -> Any:
        """The class that loads it."""

    def told(self, data: Dataset, folder: Path) -> int:
        """How many of the data's classes it is told apart.

        Raises UserError unless each image has a class that the network knows.
        """
        if data.classes > self.classes > 0:
            raise UserError(
                f"denoiser.path must be a network that knows the data set's {data.classes}"
                f" classes, got {self.classes} and the null class: {folder}"
            )
        if self.classes and self.needs_labels and data.train_labels is None:
            raise UserError(
                "denoiser.path must be a network without classes for images without labels, as"
                f" {data.name!r}, got {self.classes} classes: {folder}"
            )
        return data.classes if self.classes else 0

    def check(self, shape: tuple[int, int, int], folder: Path) -> None:
        """Raise UserError unless it maps images of `shape` (C, H, W) to such images."""
        channels, height, width = shape
        if self.channels != (channels, channels):
            into, out = self.channels
            raise UserError(
                f"denoiser.path must be a network with {channels} channels in and out, as the data"
                f" set has, got {into} in and {out} out: {folder}"
            )
        if self.sample_size != (height, width):
            raise UserError(
                f"denoiser.path must be a network for the data set's {height}x{width} pixels,"
                f" got sample_size {'x'.join(map(str, self.sample_size))}: {folder}"
            )


class SavedUNet(SavedNetwork):
    """UNet2DModel told the time by sines: those go between timesteps. The last of its classes is
    the null one."""

    needs_labels: ClassVar[bool] = True

    block_out_channels: tuple[Channels, ...] = Field(min_length=1, max_length=8)
    layers_per_block: int = Field(default=2, ge=1, le=8)
    time_embedding_type: Literal["positional"] = "positional"
    time_embedding_dim: Annotated[int, Field(ge=1, le=16_384)] | None = None
    class_embed_type: None = None
    num_class_embeds: Annotated[int, Field(ge=2, le=_MOST_CLASSES + 1)] | None = None

    @property
    def classes(self) -> int:
        return 0 if self.num_class_embeds is None else self.num_class_embeds - 1

    def network(self) -> Any:
        from diffusers import UNet2DModel

        return UNet2DModel


class SavedDiT(SavedNetwork):
    """DiTTransformer2DModel; one with classes is told the null one for images without labels."""

    needs_labels: ClassVar[bool] = False

    num_layers: Layers
    num_attention_heads: int = Field(ge=1, le=64)
    attention_head_dim: int = Field(ge=1, le=256)
    patch_size: int = Field(ge=1, le=64)
    num_embeds_ada_norm: int = Field(ge=0, le=_MOST_CLASSES)

    @property
    def classes(self) -> int:
        return self.num_embeds_ada_norm

    def network(self) -> Any:
        from stepsearch.diffusion.denoisers import unconditional_dit as transformers

        return transformers.ClassConditionalDiT if self.classes else transformers.UnconditionalDiT


class SavedUnconditionalDiT(SavedDiT):
    """The null class alone, also where the network once had others."""

    @property
    def classes(self) -> int:
        return 0


SAVED: dict[str, type[SavedNetwork]] = {
    "UNet2DModel": SavedUNet,
    "DiTTransformer2DModel": SavedDiT,
    "UnconditionalDiT": SavedUnconditionalDiT,
    "ClassConditionalDiT": SavedDiT,
}
"""By config.json's `_class_name`; the last two are what a `dit` is exported as."""


def network_folder(path: Path, field: str) -> Path:
    """`path`, or the part of the pipeline there.

    Raises UserError, in the name of `field`, if no network is in it.
    """
    if not path.is_dir():
        raise UserError(f"{field} must be an existing folder, got {str(path)!r}")
    for folder in (path, path / "unet", path / "transformer"):
        if (folder / "config.json").is_file():
            return folder
    raise UserError(
        f"{field} must hold a config.json, also in unet/ or transformer/, got {str(path)!r}"
    )


def read_saved(folder: Path, field: str) -> SavedNetwork:
    """What config.json says; the weights are there, but were not read.

    Raises UserError if either is missing, too large, or of another kind.
    """
    file = folder / "config.json"
    content = read_mapping(file, LARGEST_CONFIG)
    name = content.get("_class_name")
    if not isinstance(name, str) or name not in SAVED:
        choices = ", ".join(map(repr, SAVED))
        raise UserError(f"{file}: _class_name must be one of {choices}, got {str(name)[:100]!r}")
    check_weights(folder, field)
    return parse_file(file, SAVED[name], content)


def load_network(folder: Path, saved: SavedNetwork, field: str) -> torch.nn.Module:
    """The network on the CPU, in float32. Raises UserError unless config and weights agree."""
    return load_weights(saved.network(), folder, field).train()
