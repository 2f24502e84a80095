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
from stepsearch.errors import UserError

Channels = Annotated[int, Field(ge=1, le=4096)]


class DenoiserConfig(Config, ABC):
    """Base of every denoiser's config; a subclass adds `kind`, `check` and `build_for`."""

    @abstractmethod
    def check(self, shape: tuple[int, int, int]) -> None:
        """Raise UserError unless there is such a network for images of `shape` (C, H, W)."""

    def classes(self, data: Dataset) -> int:
        """How many of the data's classes the network tells apart; 0: it is told none.

        Raises UserError unless each image has a class that the network knows.
        """
        return 0

    def check_latents(self, data: Dataset) -> None:
        """Raise UserError where its weights come from latents of another autoencoder."""

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
        [B, C, H, W], like every unconditional network of diffusers; one with classes also takes
        `class_labels`, int64 [B]. The time is t itself, int64, or a float32 where the noise
        process has another. Raises UserError like `check`.
        """


class Conditional(DenoiserConfig):
    """A network that may be told the classes of the images."""

    class_conditional: bool = False
    """Tell the network each image's class, from a table with a row more, the null class."""

    def classes(self, data: Dataset) -> int:
        if self.class_conditional and data.train_labels is None:
            raise UserError(
                "denoiser.class_conditional must be false for images without labels, as"
                f" {data.name!r}, got true"
            )
        return data.classes if self.class_conditional else 0


@contextmanager
def initial_weights(seed: int) -> Iterator[None]:
    """Whatever torch draws inside depends on `seed`, and nothing outside on what it draws."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield
