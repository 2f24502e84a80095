"""The times that a trial tells its network; the gradient's are kept from trial to trial."""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from contextlib import nullcontext
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from stepsearch.diffusion.workers import Workers
from stepsearch.evaluation.cache import one_at_a_time
from stepsearch.sampling.timetuner import (
    EndToEndConfig,
    GradientConfig,
    Network,
    ShiftedTimes,
    tune,
    tune_end_to_end,
)
from stepsearch.sampling.timetuner.shifts import GRADIENTS, Gradient
from stepsearch.sampling.timetuner.tuned_timesteps import fingerprint
from stepsearch.strategies import FloatArray
from trainers.checkpoint import look
from trainers.subject import Subject, subject_of

if TYPE_CHECKING:
    from trainers.timetuner import TimeTunerConfig


@dataclass(frozen=True)
class Solution:
    """What the gradient found: `Tuned` as a file keeps it."""

    tau: tuple[float, ...]
    iterations: tuple[int, ...]


@lru_cache(maxsize=64)
def solution(
    config: TimeTunerConfig, gradient: Gradient, workers: Workers, cache: Path
) -> Solution:
    """The gradient's times for a sampler, once a search: from `cache`, or found and kept there.

    All workers ask for it at once; what the first one knows or finds is what all of them get.
    """
    settings = _settings(config, gradient)
    at = subject_of(config.checkpoint, config.dataset, workers.device)
    network = at.network(config.sampler, config.tau_scope)
    first, file = workers.rank == 0, cache / _file(config, settings, at)
    with one_at_a_time(file) if first else nullcontext():
        known = _read(file) if first else None
        found = _first_ones(known, network.solver.nfe, workers)
        if found is None:
            own = _tuned(network, at, settings, workers)
            found = _first_ones(own, network.solver.nfe, workers) or own
            if first:
                _write(file, found)
    return found


def _settings(config: TimeTunerConfig, gradient: Gradient) -> GradientConfig | EndToEndConfig:
    if gradient == "end_to_end":
        return config.end_to_end
    return config.gradient.model_copy(update={"strategy": gradient})


def _file(config: TimeTunerConfig, settings: GradientConfig | EndToEndConfig, at: Subject) -> str:
    """A name for all that a solution depends on."""
    key = {
        "denoiser": fingerprint(at.denoiser),
        "data": config.dataset.load().fingerprint,
        "sampler": config.sampler.model_dump(),
        "scope": config.tau_scope,
        "gradient": settings.model_dump(),
        "device": str(at.device),
    }
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    return f"timetuner-{digest[:16]}.json"


def _tuned(
    network: Network, at: Subject, settings: GradientConfig | EndToEndConfig, workers: Workers
) -> Solution:
    if isinstance(settings, EndToEndConfig):
        tuned = tune_end_to_end(network, at.images, settings)
    else:
        tuned = tune(network, at.images, settings, workers)
    return Solution(tuple(tuned.tau.tolist()), tuned.iterations)


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


def times_of(config: TimeTunerConfig, network: Network, workers: Workers, cache: Path) -> Tensor:
    """tau [S] of a trial: the untuned times, to the last bit, where it says nothing else."""
    times, untuned = config.times, network.solver.times
    top = len(look(config.checkpoint).alpha_bar) - 1
    shifted = ShiftedTimes(untuned.tolist(), 0, top)
    r: FloatArray = np.array(times.r or [0.0] * len(untuned))
    for gradient in GRADIENTS:
        if share := getattr(times, gradient):
            found = solution(config.untuned, gradient, workers, cache)
            r = r + share * shifted.shifts(found.tau)
    if not r.any():
        return untuned.clone()
    return torch.tensor(shifted.times(r.tolist()).clip(0, top), dtype=torch.float32)
