"""The times that a trial tells its network, and how well they do; kept from trial to trial."""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from contextlib import nullcontext
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor

from stepsearch.diffusion.autoencoder import latents_of
from stepsearch.diffusion.datasets import AnyDataset, Dataset
from stepsearch.diffusion.datasets.latents import decoder
from stepsearch.diffusion.workers import Workers
from stepsearch.errors import Diverged, UserError
from stepsearch.evaluation.cache import one_at_a_time
from stepsearch.evaluation.distances import energy_distance
from stepsearch.evaluation.judge import pixel_features
from stepsearch.pixels import scaled
from stepsearch.sampling.guidance import check_guidance, predictor
from stepsearch.sampling.timetuner import (
    EndToEndConfig,
    GradientConfig,
    Network,
    ShiftedTimes,
    SolverConfig,
    by_class,
    check_times,
    draw,
    evaluate,
    measure_gamma,
    tune,
    tune_end_to_end,
)
from stepsearch.sampling.timetuner.samplers import ANALYTIC
from stepsearch.sampling.timetuner.shifts import in_order
from stepsearch.sampling.timetuner.tuned_timesteps import fingerprint
from stepsearch.strategies import FloatArray
from trainers.checkpoint import AnyCheckpoint, Trained, look
from trainers.judging import judge_of

if TYPE_CHECKING:
    from torch import nn

    from trainers.timetuner import TimeTunerConfig

Strategy = Literal["sequential", "parallel", "end_to_end"]
STRATEGIES: tuple[Strategy, ...] = ("sequential", "parallel", "end_to_end")
_GAMMA_IMAGES = 512
_ENERGY_IMAGES = 4096
"""Of the data, at most."""
PICTURED = 36
_DECODED = 256
"""Latents at a time."""


@dataclass(frozen=True, eq=False)
class Bench:
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
        """E||eps||^2 / d at the nominal timesteps, on images of the data."""
        alpha_bar = torch.tensor(self.trained.alpha_bar)
        images = self.images[:_GAMMA_IMAGES]
        noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
        kind = self.trained.prediction_type
        labels = None if self.labels is None else self.labels[: len(images)]
        predict = predictor(self.denoiser, labels, sampler.guidance)

        def eps(x: Tensor, t: int) -> Tensor:
            alpha, sigma = float(alpha_bar[t].sqrt()), float((1 - alpha_bar[t]).sqrt())
            output = predict(x, torch.tensor(float(t), device=x.device))
            if kind == "epsilon":
                return output
            v = kind == "v_prediction"
            return alpha * output + sigma * x if v else (x - alpha * output) / sigma

        times = sampler.times(self.trained.alpha_bar).astype(int).tolist()
        return measure_gamma(eps, alpha_bar, times, images, noise.to(images)).cpu()


@lru_cache(maxsize=2)
def bench(checkpoint: AnyCheckpoint, dataset: AnyDataset, device: torch.device) -> Bench:
    """Raises UserError for a checkpoint that cannot be used with this data."""
    trained, data = look(checkpoint), dataset.load()
    _check_data(trained, data)
    labels = _labels(trained, data)
    denoiser = trained.load().to(device)
    images = scaled(data.train).to(device)
    labels = None if labels is None else labels.to(device)
    found = Bench(trained, denoiser, images, labels, device, data.vae)
    some, run, told = images[:2], evaluate(denoiser), None
    if found.labels is not None:
        run, told = by_class(denoiser), found.labels[:2]
    with torch.no_grad():
        check_times(run, some, len(trained.alpha_bar), told)
    return found


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


@dataclass(frozen=True)
class Solution:
    """What the gradient found: `Tuned` as a file keeps it."""

    tau: tuple[float, ...]
    iterations: tuple[int, ...]


@lru_cache(maxsize=64)
def solution(
    config: TimeTunerConfig, strategy: Strategy, workers: Workers, cache: Path
) -> Solution:
    """The gradient's times for a sampler, once a search: from `cache`, or found and kept there.

    All workers ask for it at once; what the first one knows or finds is what all of them get.
    """
    settings: GradientConfig | EndToEndConfig = config.end_to_end
    if strategy != "end_to_end":
        settings = config.gradient.model_copy(update={"strategy": strategy})
    at = bench(config.checkpoint, config.dataset, workers.device)
    key = {
        "denoiser": fingerprint(at.denoiser),
        "data": config.dataset.load().fingerprint,
        "sampler": config.sampler.model_dump(),
        "scope": config.tau_scope,
        "gradient": settings.model_dump(),
        "device": str(workers.device),
    }
    name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
    file = cache / f"timetuner-{name}.json"
    first, network = workers.rank == 0, at.network(config.sampler, config.tau_scope)
    with one_at_a_time(file) if first else nullcontext():
        known = _read(file) if first else None
        found = _first_ones(known, network.solver.nfe, workers)
        if found is None:
            if isinstance(settings, EndToEndConfig):
                tuned = tune_end_to_end(network, at.images, settings)
            else:
                tuned = tune(network, at.images, settings, workers)
            own = Solution(tuple(tuned.tau.tolist()), tuned.iterations)
            found = _first_ones(own, network.solver.nfe, workers) or own
            if first:
                _write(file, found)
    return found


def _first_ones(known: Solution | None, slots: int, workers: Workers) -> Solution | None:
    """What the first worker knows."""
    if workers.size == 1:
        return known
    rows = torch.zeros(3, slots, dtype=torch.float64, device=workers.device)
    if known and workers.rank == 0:
        rows[:] = torch.tensor([known.tau, known.iterations, [1.0] * slots], dtype=torch.float64)
    tau, iterations, there = workers.sum(rows).tolist()
    return Solution(tuple(tau), tuple(map(int, iterations))) if there[0] else None


def _read(file: Path) -> Solution | None:
    try:
        data = json.loads(file.read_text())
        return Solution(tuple(map(float, data["tau"])), tuple(map(int, data["iterations"])))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _write(file: Path, found: Solution) -> None:
    part = file.with_name(f".{file.name}.{uuid.uuid4().hex}")
    file.parent.mkdir(parents=True, exist_ok=True)
    part.write_text(json.dumps({"tau": found.tau, "iterations": found.iterations}))
    os.replace(part, file)


def told(config: TimeTunerConfig, network: Network, workers: Workers, cache: Path) -> Tensor:
    """tau [S] of a trial: the untuned times, to the last bit, where it says nothing else."""
    times, nominal = config.times, network.solver.times
    top = len(look(config.checkpoint).alpha_bar) - 1
    at = ShiftedTimes(nominal.tolist(), 0, top)
    r: FloatArray = np.array(times.r or [0.0] * len(nominal))
    for strategy in STRATEGIES:
        if share := getattr(times, strategy):
            found = solution(config.untuned, strategy, workers, cache)
            r = r + share * at.shifts(found.tau)
    if not r.any():
        return nominal.clone()
    tau = in_order(at.times(r.tolist())).clip(0, top)
    return torch.tensor(tau, dtype=torch.float32)


def scores(
    config: TimeTunerConfig, images: Tensor, seed: int, device: str, cache: Path
) -> dict[str, float]:
    """Of images 0 ... n - 1 of a seed: the judge's scores, the distance to the data's or to the
    teacher's. Latents are decoded for the judge alone."""
    found: dict[str, float] = {}
    if config.judges:
        where = torch.device(device)
        judge = judge_of(config.judge, config.dataset, cache, where)
        found |= judge.score(bench(config.checkpoint, config.dataset, where).pictures(images))
    if config.score == "energy":
        real = config.dataset.load().train
        some = torch.randperm(len(real), generator=torch.Generator().manual_seed(0))
        pixels = map(pixel_features, (scaled(real[some[:_ENERGY_IMAGES]]), images))
        found["energy"] = float(energy_distance(*pixels))
    if config.score == "teacher":
        wanted = _teacher(config.untuned, seed, len(images), device)
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
    at = bench(config.checkpoint, config.dataset, torch.device(device))
    network = at.network(config.sampler, config.tau_scope)
    images = _draw(at, network, seed, n)
    pictures = at.pictures(images[:PICTURED]).clone()
    return Untuned(scores(config, images, seed, device, cache), pictures)


@lru_cache(maxsize=4)
def _teacher(config: TimeTunerConfig, seed: int, n: int, device: str) -> Tensor:
    at = bench(config.checkpoint, config.dataset, torch.device(device))
    guided = config.teacher.model_copy(update={"guidance": config.sampler.guidance})
    network = at.network(guided, "embedding")
    return _draw(at, network, seed, n)


def _draw(at: Bench, network: Network, seed: int, n: int) -> Tensor:
    """With the untuned times."""
    times = network.solver.times
    return draw(network, times, n, shape=at.trained.shape, seed=seed, device=at.device)


def compared(
    config: TimeTunerConfig, found: dict[str, float], reference: dict[str, float]
) -> dict[str, float]:
    """Scores beside those of the untuned times: what can be compared from sampler to sampler.

    Raises Diverged where a ratio means nothing.
    """
    judged = (config.judged.fd, "pixel_fd") if config.judges else ()
    names = dict.fromkeys((config.primary, *judged))
    if reference[config.primary] <= 0:
        raise Diverged(
            f"{config.primary} of the untuned times must be above 0 to be compared with, "
            f"got {reference[config.primary]:.3g}: draw more images or take another score"
        )
    ratios = {f"{name}_ratio": found[name] / reference[name] for name in names}
    if config.judges:
        ratios["off_manifold_excess"] = found["off_manifold"] - reference["off_manifold"]
    return ratios
