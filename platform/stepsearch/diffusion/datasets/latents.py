"""Latents that `data encode` made of pictures: read where they lie, decoded to be looked at."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from stepsearch.config import AbsolutePath, Config
from stepsearch.diffusion.autoencoder import (
    Autoencoder,
    digest_of,
    load_autoencoder,
    read_autoencoder,
)
from stepsearch.diffusion.datasets.base import Dataset, DatasetConfig, hash_of
from stepsearch.diffusion.datasets.images import ImagesConfig
from stepsearch.diffusion.datasets.places import Place
from stepsearch.errors import UserError
from stepsearch.json_file import read_json
from stepsearch.pixels import clipped

MANIFEST, LATENTS, LABELS, VAE = "manifest.json", "latents.npy", "labels.npy", "vae"
"""What the folder holds."""
_MAX_BYTES = 2**16
_FIELD = "dataset.path"

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Side = Annotated[int, Field(ge=1, le=1024)]


class Source(Config):
    """What latents are made of: the same source gives the same latents."""

    version: Literal[1] = 1
    """Of this format."""
    pictures: ImagesConfig
    name: str
    """Of the data set, after which metrics are named."""
    fingerprint: str
    """Of the pictures, their labels and their split."""
    vae: Digest
    """Of the autoencoder's config.json and weights."""


class Manifest(Source):
    """The content of manifest.json."""

    scaling_factor: float = Field(gt=0)
    shift_factor: float
    """latents.npy holds (x - shift_factor) scaling_factor of the posterior's means x."""
    shape: tuple[Side, Side, Side]
    """(C, h, w) of one picture's latents."""
    train: int = Field(ge=1)
    """The first ones; with `flip`, those of the mirrored pictures come after the others."""
    held_out: int = Field(ge=1)
    """The rest."""
    labels: bool
    dtype: Literal["float16"] = "float16"
    digest: Digest
    """SHA-256 of the numbers in latents.npy."""
    mean: float
    std: float = Field(gt=0)
    """Of all numbers in latents.npy."""
    posterior_std: float = Field(ge=0)
    """Of the posteriors whose means these are: the noise that a decoder was trained to bear."""


class LatentsConfig(DatasetConfig):
    """The folder that `data encode` wrote; what is drawn is decoded before it is judged."""

    kind: Literal["latents"] = "latents"
    path: AbsolutePath
    """Wherever the worker runs."""
    pictures: Place | None = None
    """Where the pictures are, which the judge looks at; none: where they were encoded."""

    def load(self) -> Dataset:
        """Latents [C, h, w], scaled as the autoencoder says, float16 on the disk.

        Raises UserError unless the folder is whole and its autoencoder the one that made them.
        """
        return _load(self)

    def pictures_of(self) -> Dataset:
        """The pictures that were encoded. Raises UserError if they are gone, or others now."""
        return _pictures(self)


def read_manifest(folder: Path) -> Manifest:
    """Raises UserError if there is none, or one with another content."""
    if not (folder / MANIFEST).is_file():
        raise UserError(
            f"{_FIELD} must be a folder that `data encode` has finished, got {str(folder)!r}"
        )
    return read_json(folder / MANIFEST, Manifest, _MAX_BYTES)


@lru_cache(maxsize=4)
def _load(config: LatentsConfig) -> Dataset:
    folder = config.path
    manifest = read_manifest(folder)
    _check_autoencoder(folder / VAE, manifest)
    n, count = manifest.train, manifest.train + manifest.held_out
    latents = torch.from_numpy(_array(folder / LATENTS, "float16", (count, *manifest.shape)))
    labels = None
    if manifest.labels:
        labels = torch.from_numpy(_array(folder / LABELS, "int64", (count,)))
    return Dataset(
        manifest.name,
        latents[:n],
        latents[n:],
        None if labels is None else labels[:n],
        None if labels is None else labels[n:],
        hash_of(manifest.digest, n, None if labels is None else labels.numpy()),
        vae=folder / VAE,
    )


def _check_autoencoder(folder: Path, manifest: Manifest) -> None:
    """Raise UserError unless it is the one that made the latents."""
    settings = read_autoencoder(folder, _FIELD)
    if digest_of(folder) != manifest.vae:
        raise UserError(
            f"{_FIELD} must hold the autoencoder that made its latents (SHA-256 "
            f"{manifest.vae[:12]}...), got another one: {folder}"
        )
    said = manifest.scaling_factor, manifest.shift_factor, manifest.shape
    size = manifest.pictures.size
    found = settings.scaling_factor, settings.shift_factor or 0.0, settings.shape(size)
    if said != found:
        raise UserError(
            f"{folder.parent / MANIFEST}: scaling_factor, shift_factor and shape must be "
            f"{found}, as its autoencoder has them, got {said}"
        )


def _array(file: Path, dtype: str, shape: tuple[int, ...]) -> Any:
    """Read where it lies, not into memory. Raises UserError if it is another one, or cut off."""
    try:
        array = np.load(file, mmap_mode="c", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{_FIELD} must hold a whole {file.name}, got {file}: {reason}") from None
    if (str(array.dtype), array.shape) != (dtype, shape):
        raise UserError(
            f"{_FIELD} must hold {dtype} {list(shape)} in {file.name}, as its manifest says, "
            f"got {array.dtype} {list(array.shape)}"
        )
    return array


@lru_cache(maxsize=4)
def _pictures(config: LatentsConfig) -> Dataset:
    manifest = read_manifest(config.path)
    place = config.pictures or manifest.pictures.path
    try:
        moved = {"path": place, "name": manifest.name}
        found = manifest.pictures.model_copy(update=moved).load()
    except UserError as error:
        raise UserError(
            f"the judge needs the pictures that were encoded (dataset.pictures says where they "
            f"are now): {error}"
        ) from None
    if found.fingerprint != manifest.fingerprint:
        raise UserError(
            f"dataset.pictures must be those that were encoded (fingerprint "
            f"{manifest.fingerprint}), got {str(place)!r} with {found.fingerprint}"
        )
    return found


def decoder(vae: Path | None, device: torch.device) -> Callable[[Tensor], Tensor]:
    """What makes pictures in [-1, 1] of what a denoiser draws, given its `Dataset.vae`."""
    return clipped if vae is None else _autoencoder(vae, device).decode


@lru_cache(maxsize=1)
def _autoencoder(folder: Path, device: torch.device) -> Autoencoder:
    return load_autoencoder(folder, _FIELD).to(device)
