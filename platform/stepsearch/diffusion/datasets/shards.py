"""Pictures encoded shard by shard, in this process or in others."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from stepsearch.diffusion.autoencoder import Autoencoder
from stepsearch.diffusion.datasets.base import Dataset
from stepsearch.errors import UserError
from stepsearch.pixels import scaled

_MOST = 1024
_BYTES = 2**26
"""Pictures of a shard, and bytes of their pixels, at most."""

Latents = npt.NDArray[np.float16]
Pixels = npt.NDArray[np.uint8]


class Shard(NamedTuple):
    """Pictures start ... stop - 1 of a part of the data set."""

    number: int
    held_out: bool
    mirrored: bool
    start: int
    stop: int


class Encoded(NamedTuple):
    """Latents [n, c, h, w], and the mean variance of the posteriors whose means they are."""

    shard: Shard
    latents: Latents
    variance: float


class Encoder:
    """Encodes on a GPU where this process sees one."""

    def __init__(self, autoencoder: Autoencoder, batch_size: int) -> None:
        """`batch_size` changes latents by rounding only."""
        self._autoencoder = autoencoder.to(fastest())
        self._batch_size = batch_size

    def encode(self, shard: Shard, pixels: Pixels) -> Encoded:
        """The latents of the shard's pictures, uint8 [n, C, H, W].

        Raises UserError where a batch does not fit into the GPU.
        """
        means, variance = [], 0.0
        try:
            for batch in torch.split(torch.tensor(pixels), self._batch_size):
                mean, var = self._autoencoder.encode(scaled(batch))
                means.append(mean.half().cpu())
                variance += float(var.double().mean()) * len(batch)
        except torch.OutOfMemoryError:
            raise UserError(
                f"--batch-size must fit into the GPU's memory, got {self._batch_size}"
            ) from None
        return Encoded(shard, torch.cat(means).numpy(), variance / len(pixels))


Results = Iterator[Encoded]
Run = Callable[[Autoencoder, Sequence[Shard], Callable[[Shard], Pixels]], Results]
"""Encodes shards, in any order, each of which a function reads."""


def encode_here(batch_size: int) -> Run:
    """One shard after another in this process."""

    def run(
        autoencoder: Autoencoder, todo: Sequence[Shard], read: Callable[[Shard], Pixels]
    ) -> Results:
        encoder = Encoder(autoencoder, batch_size)
        return (encoder.encode(shard, read(shard)) for shard in todo)

    return run


def fastest() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def shards_of(data: Dataset) -> list[Shard]:
    """Those to train on, their mirror images, those that are held out."""
    each = max(1, min(_MOST, _BYTES // int(np.prod(data.shape))))
    parts = [(False, False), *([(False, True)] if data.flip else []), (True, False)]
    spans = [
        (held_out, mirrored, start, min(start + each, count))
        for held_out, mirrored in parts
        for count in [len(data.held_out if held_out else data.train)]
        for start in range(0, count, each)
    ]
    return [Shard(number, *span) for number, span in enumerate(spans)]
