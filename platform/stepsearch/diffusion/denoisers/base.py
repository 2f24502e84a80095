"""What a denoiser's config is: it builds a network that diffusers can load again."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import torch
from pydantic import Field

from stepsearch.config import Config
from stepsearch.diffusion.datasets import Dataset
from stepsearch.diffusion.noise import NoiseProcess

Channels = Annotated[int, Field(ge=1, le=4096)]


class DenoiserConfig(Config, ABC):
    """Base of every denoiser's config; a subclass adds `kind`, `check` and `build_for`."""

    @abstractmethod
    def check(self, shape: tuple[int, int, int]) -> None:
        """Raise UserError unless there is such a network for images of `shape` (C, H, W)."""

    def starts(self, data: Dataset, process: NoiseProcess) -> tuple[int, ...]:
        """The first timestep of each stage but the first; none where there are no stages."""
        return ()

    @property
    def stages_apart(self) -> int:
        """How many stages there are if each worker is to have one of them; otherwise 0."""
        return 0

    @abstractmethod
    def build_for(self, data: Dataset, process: NoiseProcess, seed: int) -> torch.nn.Module:
        """A network on the CPU for these images; its weights depend on `seed` only.

        The network maps (x_t [B, C, H, W], time [B]) to an object whose `sample` is
        [B, C, H, W], like every unconditional network of diffusers. The time is t itself, int64,
        or a float32 where the noise process has another. Raises UserError like `check`.
        """


@contextmanager
def initial_weights(seed: int) -> Iterator[None]:
    """Whatever torch draws inside depends on `seed`, and nothing outside on what it draws."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield
