"""A network of 8 features that gives all that Inception gives, for tests of what is around it."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from stepsearch.evaluation.features.base import ScoreNames
from stepsearch.evaluation.features.network import NetworkConfig, Seen


class TinyConfig(NetworkConfig):
    kind: Literal["tiny"] = "tiny"

    @property
    def dimensions(self) -> int:
        return 8

    def names(self, data: str) -> ScoreNames:
        return ScoreNames(f"fd_tiny_{data}", f"kid_tiny_{data}", "sfd_tiny", "score_tiny")

    def check(self) -> None:
        """It is always there."""

    def load(self) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)
            return Tiny().eval().requires_grad_(False)

    def fingerprint(self) -> str:
        return "tiny-0"


class Tiny(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 8, 3, stride=2)
        self.head = nn.Linear(8, 5)
        self.seen: list[Tensor] = []

    def forward(self, pixels: Tensor) -> Seen:
        self.seen.append(pixels)
        maps = self.convolution(pixels / 128 - 1).relu()
        features = maps.mean((2, 3))
        return Seen(features, maps[:, :1].flatten(1), self.head(features))
