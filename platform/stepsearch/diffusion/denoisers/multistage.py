"""Denoisers with one encoder and a decoder for each stage of the timesteps."""

from __future__ import annotations

from abc import abstractmethod
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
import torch
from pydantic import Field, field_validator, model_validator

from stepsearch.diffusion.datasets import Dataset
from stepsearch.diffusion.denoisers.base import Channels, DenoiserConfig, initial_weights
from stepsearch.diffusion.denoisers.dit import Layers, TransformerShape
from stepsearch.diffusion.denoisers.unet import UNetShape
from stepsearch.diffusion.noise import NoiseProcess
from stepsearch.diffusion.stages import (
    Found,
    StagesConfig,
    check_boundaries,
    find_stages,
    latents,
    pixels,
)
from stepsearch.diffusion.stages.algorithms import any_stages
from stepsearch.diffusion.stages.kernels import KERNELS
from stepsearch.errors import UserError

if TYPE_CHECKING:
    from stepsearch.diffusion.multistage.networks import (
        MultistageDiT,
        MultistageModel,
        MultistageUNet,
    )

Boundaries = tuple[float, ...]


class MultistageConfig(DenoiserConfig):
    """Stages k = 1..n, the least noisy first; a subclass says how many decoders there are."""

    boundaries: Boundaries | None = None
    """Where stages 2, 3 ... begin, as times of the VP kernel in 0..1, matched to the noise
    process by signal-to-noise ratio; none: as `stages` finds them for the data set."""

    stages_a_worker: Literal["all", "one"] = "all"
    """one: worker r holds the encoder and the decoder of stage r mod n (Algorithm 3 of the paper),
    which takes less memory; all: every worker trains all stages (Algorithm 4)."""

    @property
    @abstractmethod
    def n(self) -> int:
        """Stages."""

    @model_validator(mode="after")
    def _a_boundary_between_two_stages(self) -> MultistageConfig:
        given = self.boundaries
        if given is None:
            return self
        if len(given) != self.n - 1:
            raise ValueError(
                f"boundaries must be {self.n - 1} for {self.n} stages, got {list(given)}"
            )
        if given:
            check_boundaries(given)
        return self

    @property
    def stages_apart(self) -> int:
        return self.n if self.stages_a_worker == "one" else 0

    def starts(self, data: Dataset, process: NoiseProcess) -> tuple[int, ...]:
        """Raises UserError where a stage is left without a timestep."""
        if self.n == 1:
            return ()
        boundaries = self.boundaries or found(data, self.n)
        sigma = KERNELS["vp"].sigma(np.array(boundaries))
        starts = tuple(int(start) for start in np.searchsorted(process.sigma, sigma))
        if any(a >= b for a, b in pairwise((0, *starts, process.T))):
            times = ", ".join(f"{t:g}" for t in boundaries)
            raise UserError(
                f"denoiser.boundaries must leave every stage some of the {process.T} timesteps,"
                f" got {times}, which are timesteps {', '.join(map(str, starts))}"
            )
        return starts

    def build_for(self, data: Dataset, process: NoiseProcess, seed: int) -> MultistageModel:
        self.check(data.shape)
        starts = torch.tensor(self.starts(data, process), dtype=torch.int64)
        with initial_weights(seed):
            # halfway between two timesteps, out of the reach of rounding
            edges = (process.time(starts - 1) + process.time(starts)) / 2
            return self.network(data.shape, tuple(edges.tolist()))

    @abstractmethod
    def network(self, shape: tuple[int, int, int], boundaries: Boundaries) -> MultistageModel:
        """With weights of torch's global generator; boundaries are times as it is told them."""


Decoder = Annotated[tuple[Channels, ...], Field(min_length=1, max_length=8)]


class MultistageUNetConfig(MultistageConfig, UNetShape):
    """The U-Net with its way up once for each stage: `channels` are those of the encoder."""

    kind: Literal["multistage_unet"] = "multistage_unet"
    decoders: tuple[Decoder, ...] = Field(
        default=((24, 48), (16, 32), (8, 16)), min_length=1, max_length=5
    )
    """Each stage's channels at each resolution, the least noisy stage and the full one first."""

    @property
    def n(self) -> int:
        return len(self.decoders)

    @field_validator("decoders")
    @classmethod
    def _as_many_levels(cls, decoders: tuple[Decoder, ...]) -> tuple[Decoder, ...]:
        if len({len(widths) for widths in decoders}) > 1:
            raise ValueError(f"decoders must have equally many levels, got {decoders}")
        return decoders

    @model_validator(mode="after")
    def _as_many_levels_as_the_encoder(self) -> MultistageUNetConfig:
        levels = len(self.channels)
        if len(self.decoders[0]) != levels:
            raise ValueError(
                f"decoders must have the {levels} levels of channels, got {self.decoders}"
            )
        return self

    def network(self, shape: tuple[int, int, int], boundaries: Boundaries) -> MultistageUNet:
        from stepsearch.diffusion.multistage.networks import MultistageUNet

        channels, height, width = shape
        network: MultistageUNet = MultistageUNet(
            sample_size=height if height == width else (height, width),
            in_channels=channels,
            out_channels=channels,
            block_out_channels=self.channels,
            decoder_channels=self.decoders,
            boundaries=boundaries,
            layers_per_block=self.layers,
            norm_num_groups=self.groups,
            add_attention=self.attention == "mid",
        )
        return network


class MultistageDiTConfig(MultistageConfig, TransformerShape):
    """A diffusion transformer whose last blocks are there once for each stage."""

    kind: Literal["multistage_dit"] = "multistage_dit"
    trunk: Layers = 2
    """Blocks that all stages share."""
    tails: tuple[Layers, ...] = Field(default=(3, 2, 1), min_length=1, max_length=5)
    """Blocks of each stage's own, the least noisy first."""

    @property
    def n(self) -> int:
        return len(self.tails)

    def network(self, shape: tuple[int, int, int], boundaries: Boundaries) -> MultistageDiT:
        from stepsearch.diffusion.multistage.networks import MultistageDiT

        channels, side, _ = shape
        network: MultistageDiT = MultistageDiT(
            sample_size=side,
            in_channels=channels,
            out_channels=channels,
            patch_size=self.patch,
            num_attention_heads=self.heads,
            attention_head_dim=self.head_width,
            trunk_layers=self.trunk,
            tail_layers=self.tails,
            boundaries=boundaries,
        )
        return network


def found(data: Dataset, n: int) -> Boundaries:
    """The boundaries of n stages that `stages` finds for a data set.

    Raises UserError where Algorithm 1 leaves no three stages.
    """
    if n != 3:
        return algorithm_2(data, n)
    boundaries = algorithm_1(data)
    if boundaries is None:
        first, third = (crossing.tau for crossing in _analysis(data).crossings)
        others = ", ".join(f"{t:g}" for t in algorithm_2(data, 3))
        raise UserError(
            f"denoiser.boundaries must be given for {data.name!r}: by Algorithm 1 the first of"
            f" three stages ends at {first:g} and the last begins at {third:g}; by Algorithm 2"
            f" they would be {others}"
        )
    return boundaries


def algorithm_1(data: Dataset) -> Boundaries | None:
    """Of three stages; None where it leaves one of them no time."""
    first, third = (crossing.tau for crossing in _analysis(data).crossings)
    return (first, third) if 0 < first < third < 1 else None


def algorithm_2(data: Dataset, n: int) -> Boundaries:
    """Of n stages."""
    return any_stages(_analysis(data).grid.similarity, n)


@lru_cache(maxsize=4)
def _analysis(data: Dataset) -> Found:
    """Once a process; both algorithms look at the same for any number of stages."""
    points = pixels(data.train) if data.vae is None else latents(data.train)
    return find_stages(points, StagesConfig(n=2))
