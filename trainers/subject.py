"""What trials of times are made on: a trained denoiser under any sampler, with the data that it
was trained on; kept from trial to trial."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from stepsearch.diffusion.autoencoder import latents_of
from stepsearch.diffusion.datasets import AnyDataset, Dataset
from stepsearch.diffusion.datasets.latents import decoder
from stepsearch.errors import UserError
from stepsearch.pixels import scaled
from stepsearch.sampling.guidance import check_guidance, predictor
from stepsearch.sampling.timetuner import (
    Network,
    SolverConfig,
    by_class,
    check_times,
    evaluate,
    measure_gamma,
)
from stepsearch.sampling.timetuner.samplers import ANALYTIC
from trainers.checkpoint import AnyCheckpoint, Trained, look

if TYPE_CHECKING:
    from torch import nn

_GAMMA_IMAGES = 512
_DECODED = 256
"""Latents at a time."""
_MOST = 2**16
"""Images to tune on: of a larger set as many, drawn evenly, since each lane has them in memory."""


@dataclass(frozen=True, eq=False)
class Subject:
    """A trained denoiser, loaded once a process, with the data that it was trained on.

    Where it draws latents, these are its images, and `pictures` what is looked at.
    """

    trained: Trained
    denoiser: nn.Module
    images: Tensor
    """Clean ones, to tune on."""
    labels: Tensor | None
    """Their classes, where the denoiser is told them."""
    device: torch.device
    vae: Path | None
    """The folder of the autoencoder that decodes them, where they are latents."""
    _gammas: dict[SolverConfig, Tensor] = field(default_factory=dict)
    """Measured so far."""

    def network(self, sampler: SolverConfig, scope: Literal["embedding", "full"]) -> Network:
        """The network under a sampler. Raises UserError where that cannot run."""
        self.check(sampler)
        run = evaluate(self.denoiser)
        if self.labels is not None:
            run = by_class(self.denoiser, sampler.guidance)
        gamma = self._gamma(sampler) if sampler.kind in ANALYTIC else None
        solver = sampler.build(self.trained.noise, self.trained.prediction_type, gamma)
        return Network(run, solver, scope, labels=self.labels, latents=self.vae is not None)

    def pictures(self, drawn: Tensor) -> Tensor:
        """What was drawn, [n, C, H, W] in [-1, 1] on the CPU; latents are decoded."""
        if self.vae is None:
            return drawn
        decode = decoder(self.vae, self.device)
        return torch.cat([decode(some).cpu() for some in torch.split(drawn, _DECODED)])

    def check(self, sampler: SolverConfig) -> None:
        """Raise UserError for guidance that the denoiser was not trained for, and for what is not
        done to latents."""
        trained = self.trained
        if self.vae is not None:
            sampler.check_latents()
        told, null_trained = trained.classes > 0, trained.null_trained
        check_guidance(sampler.guidance, told=told, null_trained=null_trained)

    def _gamma(self, sampler: SolverConfig) -> Tensor:
        """E||eps||^2 / d at the nominal timesteps, on images of the data; measured once."""
        if sampler not in self._gammas:
            self._gammas[sampler] = self._measured(sampler)
        return self._gammas[sampler]

    def _measured(self, sampler: SolverConfig) -> Tensor:
        alpha_bar = torch.tensor(self.trained.alpha_bar)
        chance = torch.Generator().manual_seed(0)
        some = torch.randperm(len(self.images), generator=chance)[:_GAMMA_IMAGES]
        some = some.to(self.device)
        images, labels = self.images[some], None if self.labels is None else self.labels[some]
        noise = torch.randn(images.shape, generator=chance)
        predict = predictor(self.denoiser, labels, sampler.guidance)
        times = sampler.times(self.trained.alpha_bar).astype(int).tolist()
        target = self.trained.prediction_type
        return measure_gamma(predict, alpha_bar, times, images, noise.to(images), target).cpu()


@lru_cache(maxsize=2)
def subject_of(checkpoint: AnyCheckpoint, dataset: AnyDataset, device: torch.device) -> Subject:
    """Raises UserError for a checkpoint that cannot be used with this data."""
    trained, data = look(checkpoint), dataset.load()
    _check_data(trained, data)
    labels, some = _labels(trained, data), _some(len(data.train))
    denoiser = trained.load().to(device)
    images = scaled(data.train[some]).to(device)
    labels = None if labels is None else labels[some].to(device)
    subject = Subject(trained, denoiser, images, labels, device, data.vae)
    run, some_labels = evaluate(denoiser), None
    if subject.labels is not None:
        run, some_labels = by_class(denoiser), subject.labels[:2]
    with torch.no_grad():
        check_times(run, images[:2], len(trained.alpha_bar), some_labels)
    return subject


def _some(images: int) -> slice | Tensor:
    """Which of so many images are tuned on."""
    if images <= _MOST:
        return slice(None)
    drawn = torch.randperm(images, generator=torch.Generator().manual_seed(0))[:_MOST]
    return drawn.sort().values


def _check_data(trained: Trained, data: Dataset) -> None:
    """Raise UserError unless the denoiser draws such images, or latents of this autoencoder."""
    if (trained.vae is None) != (data.vae is None):
        draws, has = ("pictures", "latents") if trained.vae is None else ("latents", "pictures")
        raise UserError(f"dataset must have {draws}, which the checkpoint draws, got {has}")
    if data.shape != trained.shape:
        raise UserError(
            f"dataset must have images {list(trained.shape)}, which the checkpoint draws, "
            f"got {list(data.shape)}"
        )
    if trained.vae is None or data.vae is None or trained.vae == data.vae:
        return
    if latents_of(trained.vae, "checkpoint.path") != latents_of(data.vae, "dataset.path"):
        raise UserError(
            f"dataset must have latents of the checkpoint's autoencoder, {trained.vae}, got those "
            f"of another one: {data.vae}"
        )


def _labels(trained: Trained, data: Dataset) -> Tensor | None:
    """What the denoiser is told of the images. Raises UserError for others than it knows."""
    if not trained.classes:
        return None
    if not 0 < data.classes <= trained.classes:
        raise UserError(
            f"dataset must have labels of the {trained.classes} classes that the checkpoint knows,"
            f" got {data.classes or 'none'}"
        )
    return data.train_labels
