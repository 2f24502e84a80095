"""Ways of tuning a sampler's times: by the paper's losses, or by the distance to the data."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, NamedTuple

import numpy as np
import optuna
import torch
from torch import Tensor

from stepsearch.evaluation.distances import energy_distance
from stepsearch.sampling.timetuner import (
    EndToEndConfig,
    GradientConfig,
    Network,
    ShiftedTimes,
    draw,
    tune,
    tune_end_to_end,
)
from stepsearch.strategies import FloatArray

SEARCH_SEED = 3
TRIALS, IMAGES, MORE = 40, 512, 15
"""Of the black-box searches; those that follow the gradient in the hybrid."""
LEVELS = "levels and tau"
"""A method for samplers that run levels of their own: neither the clipping ddim nor ddpm."""


class Timed(NamedTuple):
    """What a method found, and what that took in CPU seconds."""

    tau: Tensor
    cpu_s: float


Tuning = Callable[[Network, Tensor], Timed]


def timed(find: Callable[..., Tensor]) -> Callable[..., Timed]:
    def measured(*given: Any, **settings: Any) -> Timed:
        begun = time.process_time()
        tau = find(*given, **settings)
        return Timed(tau, time.process_time() - begun)

    return measured


@timed
def untuned(network: Network, images: Tensor) -> Tensor:
    return network.solver.times


@timed
def gradient(network: Network, images: Tensor, **settings: Any) -> Tensor:
    return tune(network, images, GradientConfig(**settings)).tau


@lru_cache(maxsize=1)
@timed
def end_to_end(network: Network, images: Tensor, **settings: Any) -> Tensor:
    return tune_end_to_end(network, images, EndToEndConfig(**settings)).tau


@timed
def searched(network: Network, images: Tensor, *, sampler: str, trials: int) -> Tensor:
    """The best of some trials; the untuned times are the first."""
    return _search(network, images, network.solver.times, sampler, trials)


def hybrid(network: Network, images: Tensor) -> Timed:
    """CMA-ES from where the gradient arrived, whose seconds count."""
    arrived = end_to_end(network, images)
    found = timed(_search)(network, images, arrived.tau, "cmaes", MORE)
    return Timed(found.tau, arrived.cpu_s + found.cpu_s)


def _search(network: Network, images: Tensor, start: Tensor, sampler: str, trials: int) -> Tensor:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    solver = network.solver
    at = ShiftedTimes(solver.times.tolist(), 0, solver.top)
    begin, free = at.shifts(start.tolist()), [slot for slot in at.free if slot < solver.nfe - 1]
    channels, height, width = images.shape[1:]
    shape, real = (channels, height, width), images.flatten(1)

    def times(params: dict[str, float]) -> Tensor:
        r = begin.copy()
        for slot in free:
            r[slot] += params[f"r{slot}"]
        return in_order(at, r)

    def distance(trial: optuna.Trial) -> float:
        tau = times({f"r{slot}": trial.suggest_float(f"r{slot}", -1, 1) for slot in free})
        drawn = draw(network, tau, IMAGES, shape=shape, seed=SEARCH_SEED)
        return float(energy_distance(real, drawn.flatten(1)))

    by: dict[str, Callable[[], optuna.samplers.BaseSampler]] = {
        "tpe": lambda: optuna.samplers.TPESampler(seed=0, multivariate=True, n_startup_trials=8),
        "cmaes": lambda: optuna.samplers.CmaEsSampler(
            seed=0, sigma0=0.3, x0={f"r{slot}": 0.0 for slot in free}
        ),
    }
    with warnings.catch_warnings():  # Optuna deprecates the width of the first steps
        warnings.simplefilter("ignore", FutureWarning)
        study = optuna.create_study(sampler=by[sampler]())
    study.enqueue_trial({f"r{slot}": 0.0 for slot in free})
    study.optimize(distance, n_trials=trials)
    return times(study.best_params)


def in_order(at: ShiftedTimes, r: FloatArray) -> Tensor:
    """tau of the shifts: none above one of a noisier level, as in the narrower box of a search."""
    tau, lowest = at.times(r.tolist()).clip(0, at.top), at.top
    for point in np.unique(at.index)[::-1]:
        here = at.index == point
        tau[here] = tau[here].clip(max=lowest)
        lowest = tau[here].min()
    return torch.tensor(tau, dtype=torch.float32)


METHODS: dict[str, Tuning] = {
    "untuned": untuned,
    "sequential": partial(gradient, wave=0),
    "parallel": partial(gradient, strategy="parallel", wave=0),
    "smooth sequential": gradient,
    "tpe": partial(searched, sampler="tpe", trials=TRIALS),
    "cmaes": partial(searched, sampler="cmaes", trials=TRIALS),
    "end_to_end": end_to_end,
    "hybrid": hybrid,
    "end_to_end, last slot too": partial(end_to_end, tune_last=True),
    "end_to_end, one tau": partial(end_to_end, lr=0.1, spread=0, wave=0),
}
