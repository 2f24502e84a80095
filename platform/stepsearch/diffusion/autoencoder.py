"""diffusers' AutoencoderKL: pictures to latents, and back."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import ConfigDict, Field
from torch import Tensor

from stepsearch.config import Config
from stepsearch.diffusion.weights import LARGEST_CONFIG, WEIGHTS, check_weights, load_weights
from stepsearch.errors import UserError
from stepsearch.json_file import parse_file, read_mapping

CONFIG = "config.json"
_PIXELS = 2**19
"""Of the pictures that are decoded at a time: eight of 256 x 256 take some 3 GiB."""


class AutoencoderSettings(Config):
    """The keys of config.json that decide what latents there are, and how large the network is."""

    model_config = ConfigDict(extra="ignore")

    in_channels: Literal[1, 3] = 3
    out_channels: Literal[1, 3] = 3
    latent_channels: int = Field(default=4, ge=1, le=64)
    block_out_channels: tuple[Annotated[int, Field(ge=1, le=4096)], ...] = Field(
        min_length=1, max_length=8
    )
    layers_per_block: int = Field(default=1, ge=1, le=8)
    scaling_factor: float = Field(default=0.18215, gt=0)
    shift_factor: float | None = None
    latents_mean: None = None
    latents_std: None = None
    quantization_config: None = None

    @property
    def reduction(self) -> int:
        """Pixels along a side of one latent."""
        return 1 << (len(self.block_out_channels) - 1)

    def shape(self, size: int) -> tuple[int, int, int]:
        """(C, h, w) of the latents of a picture of size x size pixels."""
        return self.latent_channels, size // self.reduction, size // self.reduction


def autoencoder_folder(path: Path, field: str) -> Path:
    """`path`, or the part of the pipeline there. Raises UserError if no autoencoder is in it."""
    for folder in (path, path / "vae"):
        if (folder / CONFIG).is_file():
            return folder
    raise UserError(f"{field} must hold a {CONFIG}, also in vae/, got {str(path)!r}")


def read_autoencoder(folder: Path, field: str) -> AutoencoderSettings:
    """What config.json says; the weights are there, but were not read.

    Raises UserError if either is missing, too large, or of another kind.
    """
    file = folder / CONFIG
    content = read_mapping(file, LARGEST_CONFIG)
    if content.get("_class_name") != "AutoencoderKL":
        name = str(content.get("_class_name"))[:100]
        raise UserError(f"{file}: _class_name must be 'AutoencoderKL', got {name!r}")
    check_weights(folder, field)
    settings = parse_file(file, AutoencoderSettings, content)
    if settings.in_channels != settings.out_channels:
        raise UserError(
            f"{file}: out_channels must be in_channels ({settings.in_channels}), "
            f"got {settings.out_channels}"
        )
    return settings


def digest_of(folder: Path) -> str:
    """SHA-256 of an autoencoder's config.json and weights."""
    config = (folder / CONFIG).read_bytes()
    return hashlib.sha256(config + weights_digest(folder).encode()).hexdigest()


def weights_digest(folder: Path) -> str:
    """SHA-256 of an autoencoder's weights, which is the same however its config is written."""
    with (folder / WEIGHTS).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def latents_of(folder: Path, field: str) -> tuple[str, float, float]:
    """What decides which latents a picture has: the weights' SHA-256, the scale and the shift.

    Raises UserError like `read_autoencoder`.
    """
    settings = read_autoencoder(folder, field)
    return weights_digest(folder), settings.scaling_factor, settings.shift_factor or 0.0


@dataclass(frozen=True, eq=False)
class Autoencoder:
    """An AutoencoderKL whose latents have its mean and its scale taken off: z = (x - m) s."""

    network: Any
    scale: float
    shift: float

    def to(self, device: torch.device) -> Autoencoder:
        """The same one there; it leaves where it was."""
        self.network.to(device)
        return self

    @torch.no_grad()
    def encode(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance of the posterior, both [N, c, h, w], of pictures [N, C, H, W] in
        [-1, 1]."""
        posterior = self.network.encode(pictures.to(self.network.device)).latent_dist
        return (posterior.mean - self.shift) * self.scale, posterior.var * self.scale**2

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """The pictures [N, C, H, W] in [-1, 1] of latents [N, c, h, w], some at a time."""
        x = latents.to(self.network.device) / self.scale + self.shift
        reduction = 2 ** (len(self.network.config.block_out_channels) - 1)
        some = max(1, _PIXELS // (x[0, 0].numel() * reduction**2))
        decoded = [self.network.decode(part).sample for part in torch.split(x, some)]
        return torch.cat(decoded).clamp(-1, 1)


def load_autoencoder(folder: Path, field: str) -> Autoencoder:
    """On the CPU. Raises UserError unless config and weights are there and agree."""
    from diffusers import AutoencoderKL

    settings = read_autoencoder(folder, field)
    network = load_weights(AutoencoderKL, folder, field).eval().requires_grad_(False)
    return Autoencoder(network, settings.scaling_factor, settings.shift_factor or 0.0)
