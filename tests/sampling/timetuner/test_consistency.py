"""Consistency sampling, coefficient by coefficient."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from stepsearch.diffusion.denoisers import UNetConfig
from stepsearch.diffusion.noise import VPConfig
from stepsearch.errors import UserError
from stepsearch.sampling.timetuner import Network, SolverConfig, evaluate

PROCESS = VPConfig().build()
NOISE = PROCESS.scheduler_config()


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
