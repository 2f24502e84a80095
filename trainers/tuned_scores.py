"""How well a trial's times do, beside the untuned ones; what all trials share is kept."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from stepsearch.diffusion.datasets import AnyDataset
from stepsearch.errors import Diverged
from stepsearch.evaluation.distances import energy_distance
from stepsearch.evaluation.judge import pixel_features
from stepsearch.pixels import scaled
from stepsearch.sampling.timetuner import Network, SolverConfig, draw, losses
from trainers.checkpoint import AnyCheckpoint
from trainers.judging import judge_of
from trainers.subject import Subject, subject_of

if TYPE_CHECKING:
    from trainers.timetuner import TimeTunerConfig

_ENERGY_IMAGES = 4096
"""Of the data, at most."""
PICTURED = 36


def scores(
    config: TimeTunerConfig, images: Tensor, seed: int, device: str, cache: Path
) -> dict[str, float]:
    """Of images 0 ... n - 1 of a seed: the judge's scores, the distance to the data's or to the
    teacher's. Latents are decoded for the judge alone."""
    found: dict[str, float] = {}
    if config.judges:
        where = torch.device(device)
        judge = judge_of(config.judge, config.dataset, cache, where)
        found |= judge.score(subject_of(config.checkpoint, config.dataset, where).pictures(images))
    if config.score == "energy":
        real = config.dataset.load().train
        some = torch.randperm(len(real), generator=torch.Generator().manual_seed(0))
        pixels = map(pixel_features, (scaled(real[some[:_ENERGY_IMAGES]]), images))
        found["energy"] = float(energy_distance(*pixels))
    if config.score == "teacher":
        guided = config.teacher.model_copy(update={"guidance": config.sampler.guidance})
        wanted = _wanted(config.checkpoint, config.dataset, guided, seed, len(images), device)
        found["gap"] = float((images - wanted).flatten(1).norm(dim=1).mean())
    return found


@dataclass(frozen=True, eq=False)
class Untuned:
    """What the untuned times do from the noise of a seed."""

    scores: dict[str, float]
    pictures: Tensor
    """The first ones."""


@lru_cache(maxsize=64)
def untuned(config: TimeTunerConfig, seed: int, n: int, device: str, cache: Path) -> Untuned:
    """Once a process; it is `config.untuned` that is asked for."""
    at = subject_of(config.checkpoint, config.dataset, torch.device(device))
    network = at.network(config.sampler, config.tau_scope)
    images = _draw(at, network, seed, n)
    pictures = at.pictures(images[:PICTURED]).clone()
    return Untuned(scores(config, images, seed, device, cache), pictures)


@lru_cache(maxsize=64)
def untuned_losses(config: TimeTunerConfig, device: str) -> tuple[float, ...]:
    """Eq. 9's of each slot with the untuned times, once a process; asked for as `untuned` is."""
    at = subject_of(config.checkpoint, config.dataset, torch.device(device))
    network = at.network(config.sampler, config.tau_scope)
    return tuple(losses(network, network.solver.times, at.images, config.gradient))


@lru_cache(maxsize=4)
def _wanted(
    checkpoint: AnyCheckpoint,
    dataset: AnyDataset,
    teacher: SolverConfig,
    seed: int,
    n: int,
    device: str,
) -> Tensor:
    """The teacher's images, the same whatever they are compared with."""
    at = subject_of(checkpoint, dataset, torch.device(device))
    return _draw(at, at.network(teacher, "embedding"), seed, n)


def _draw(at: Subject, network: Network, seed: int, n: int) -> Tensor:
    """With the untuned times."""
    times = network.solver.times
    return draw(network, times, n, shape=at.trained.shape, seed=seed, device=at.device)


def compared(
    config: TimeTunerConfig, found: dict[str, float], reference: dict[str, float]
) -> dict[str, float]:
    """Scores beside those of the untuned times: what can be compared from sampler to sampler.

    Raises Diverged where a ratio means nothing.
    """
    if reference[config.primary] <= 0:
        raise Diverged(
            f"{config.primary} of the untuned times must be above 0 to be compared with, "
            f"got {reference[config.primary]:.3g}: draw more images or take another score"
        )
    ratios = {f"{name}_ratio": found[name] / reference[name] for name in config.distances}
    if config.judges:
        ratios["off_manifold_excess"] = found["off_manifold"] - reference["off_manifold"]
    return ratios
