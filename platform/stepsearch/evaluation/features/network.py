"""Networks that were trained elsewhere: what they see in images, batch by batch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

from stepsearch.errors import UserError
from stepsearch.evaluation.features.base import FeaturesConfig, Observed, kept_rows
from stepsearch.evaluation.moments import Moments

# Images of one forward pass.
_BATCH = 64


class Seen(NamedTuple):
    """What a network sees in n images."""

    features: Tensor
    """[n, d]"""
    spatial: Tensor | None = None
    """[n, s], for sFID."""
    logits: Tensor | None = None
    """[n, classes], for an Inception Score."""


class NetworkConfig(FeaturesConfig, ABC):
    """A network with published weights, which needs no labels."""

    @property
    @abstractmethod
    def dimensions(self) -> int:
        """d of its features."""

    @abstractmethod
    def check(self) -> None:
        """Raise UserError unless `load` will find what it needs."""

    @abstractmethod
    def load(self) -> nn.Module:
        """The network, in eval mode: pixels [n, 3, H, W], 0..255 -> Seen. Raises UserError."""

    @abstractmethod
    def fingerprint(self) -> str:
        """The same for the same weights, in letters that a file's name may have."""

    def with_published(self, real: Observed) -> Observed:
        """What is compared with, where published statistics replace the training images' own."""
        return real

    def objective(self, data: str, samples: int) -> str:
        """KID where there are no more samples than features: see `statistics`."""
        names = self.names(data)
        return names.fd if samples > self.dimensions else names.kid


class Network:
    """The Extractor of a NetworkConfig."""

    def __init__(self, network: nn.Module):
        self._network = network

    @torch.no_grad()
    def observe(self, images: Tensor, device: torch.device) -> Observed:
        """In batches: never are all images there as a network's input, or all features at once."""
        network, kept = self._network.to(device), kept_rows(len(images))
        moments, spatial = Moments(), Moments()
        features, logits, start = [], [], 0
        with full_precision():
            for batch in torch.split(images, _BATCH):
                seen: Seen = network(pixels(batch).to(device))
                moments.add(seen.features)
                inside = kept[(kept >= start) & (kept < start + len(batch))] - start
                features.append(seen.features[inside.to(device)].cpu())
                if seen.spatial is not None:
                    spatial.add(seen.spatial)
                if seen.logits is not None:
                    logits.append(seen.logits.cpu())
                start += len(batch)
        return Observed(
            torch.cat(features),
            moments.statistics(),
            spatial.statistics() if spatial.count else None,
            torch.cat(logits) if logits else None,
        )


def pixels(images: Tensor) -> Tensor:
    """Images [n, 1 or 3, H, W], uint8 or in [-1, 1], as a file would hold them: RGB, whole
    numbers 0..255.

    Raises UserError for another number of channels.
    """
    check_channels(images.shape[1])
    if images.dtype != torch.uint8:
        images = images.float().add(1).mul(127.5).round().clamp(0, 255)
    return images.float().expand(-1, 3, -1, -1)


def check_channels(channels: int) -> None:
    """Raise UserError unless images are grey or RGB."""
    if channels not in (1, 3):
        raise UserError(
            f"dataset must have images of 1 or 3 channels for features of a network that was "
            f"trained on photographs, got {channels}: take judge.features.kind classifier"
        )


@contextmanager
def full_precision() -> Iterator[None]:
    """Convolutions on a GPU in float32, which is not what PyTorch does there by itself."""
    with torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
        yield
