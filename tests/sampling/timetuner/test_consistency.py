"""Consistency sampling, coefficient by coefficient."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from stepsearch.diffusion.denoisers import UNetConfig
from stepsearch.diffusion.noise import VPConfig
from stepsearch.errors import UserError
from stepsearch.sampling.timetuner import (
    EndToEndConfig,
    GradientConfig,
    Network,
    SolverConfig,
    Tuned,
    evaluate,
    tune,
    tune_end_to_end,
)
from tests.sampling.timetuner.exact import DIGITS

PROCESS = VPConfig().build()
NOISE = PROCESS.scheduler_config()
IMAGES = DIGITS.float().view(-1, 1, 8, 8)
SMALL = GradientConfig(
    batch_size=8, batches=2, held_out=1, iterations=6, check_every=2, lr=0.02, wave=0
)


def test_consistency_sampling_is_diffusers_own_and_its_last_step_has_no_gradient() -> None:
    denoiser = UNetConfig(channels=(8, 16)).build((1, 8, 8), seed=0).eval()
    process = {"sigma_min": 0.01, "sigma_max": 20.0}
    solver = SolverConfig(kind="cm", num_steps=3).build(process, "sample")
    network = Network(evaluate(denoiser), solver)
    levels = np.array(solver.sigmas)
    np.testing.assert_allclose(solver.times, 250 * np.log(levels[:-1]), rtol=1e-5)
    assert levels[0] == pytest.approx(20)
    state = solver.start(torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(9)))
    assert state.x.std() == pytest.approx(20, rel=0.2)
    x, data = state.x, 0.5
    with torch.no_grad():
        for slot, sigma in enumerate(levels[:-1]):
            skip = data**2 / ((sigma - 0.01) ** 2 + data**2)
            out = (sigma - 0.01) * data / math.sqrt(sigma**2 + data**2)
            told = denoiser((x / math.sqrt(sigma**2 + data**2)).float(), solver.times[slot]).sample
            chance = torch.Generator().manual_seed(slot)
            noise = torch.randn(x.shape, generator=chance)
            lower = max(levels[slot + 1], 0.01)
            x = skip * x + out * told + math.sqrt(lower**2 - 0.01**2) * noise
            output = network.output(slot, solver.look(state), solver.times[slot])
            state = solver.advance(state, output, torch.Generator().manual_seed(slot))
            torch.testing.assert_close(state.x.double(), x.double(), rtol=1e-4, atol=1e-4)
        assert network.eps(3, solver.look(state)).abs().max() < 1e-6
    with pytest.raises(UserError, match=r"^tau_scope must be embedding for cm, got full$"):
        Network(evaluate(denoiser), solver, "full")


def few_steps() -> Network:
    """Told 749, 249 and -453, and -1151 at the end: 250 log sigma."""
    denoiser = UNetConfig(channels=(8, 16)).build((1, 8, 8), seed=0).eval().requires_grad_(False)
    process = {"sigma_min": 0.01, "sigma_max": 20.0}
    return Network(
        evaluate(denoiser), SolverConfig(kind="cm", num_steps=3).build(process, "sample")
    )


def end_to_end(network: Network, *, tune_last: bool) -> Tuned:
    config = EndToEndConfig(
        iterations=8, lr=0.1, spread=0, batch_size=16, real=64, held_out=64, tune_last=tune_last
    )
    return tune_end_to_end(network, IMAGES, config)


def test_all_steps_together_are_tuned_between_the_noisiest_level_and_the_lowest() -> None:
    network = few_steps()
    nominal = network.solver.times
    tuned = end_to_end(network, tune_last=True)
    assert tuned.distance is not None
    assert tuned.distance[1] < tuned.distance[0]
    assert (tuned.tau.diff() < 0).all()
    assert float(network.solver.end) <= tuned.tau[-1] <= tuned.tau[0] <= nominal[0]
    assert (tuned.tau[1:] != nominal[1:]).all()
    assert end_to_end(network, tune_last=False).tau[-1] == nominal[-1] < 0


@pytest.mark.parametrize("strategy", ["sequential", "parallel"])
def test_each_step_is_tuned_but_the_last_one_gains_nothing(strategy: Any) -> None:
    network = few_steps()
    config = SMALL.model_copy(update={"strategy": strategy, "tune_last": True, "seed": 2})
    tuned = tune(network, IMAGES, config)
    assert (tuned.tau <= network.solver.top).all()
    assert tuned.iterations[-1] == 6
    assert (tuned.tau[-1], tuned.loss[-1]) == (tuned.untuned[-1], tuned.loss_untuned[-1])
    later = few_steps().solver
    rho = torch.tensor(1e-9)
    assert float(later.told(2, rho)) == float(later.end)
    assert float(later.told(0, torch.ones(()))) == float(later.times[0]) == later.top
    if strategy == "sequential":
        assert tuned.loss[1] < tuned.loss_untuned[1]
        assert tuned.tau[1] != tuned.untuned[1]
