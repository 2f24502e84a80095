"""Analytic-DPM, on data where its variance is exact."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from stepsearch.diffusion.noise import VPConfig
from stepsearch.sampling.timetuner import SolverConfig, knots, measure_gamma

PROCESS = VPConfig().build()
NOISE = PROCESS.scheduler_config()


VARIANCE = 0.3


def gaussian_eps(x: Tensor, t: int) -> Tensor:
    """The network of data N(0, 0.3)."""
    abar = float(PROCESS.alpha_bar[t])
    return x * math.sqrt(1 - abar) / (abar * VARIANCE + 1 - abar)


def analytic(kind: Any, x: Tensor, K: int, **fields: Any) -> Tensor:
    alpha_bar = torch.tensor(PROCESS.alpha_bar)
    times = knots("linspace", K, PROCESS.alpha_bar).times.astype(int).tolist()
    chance = torch.Generator().manual_seed(0)
    data = torch.randn(20_000, 16, generator=chance) * VARIANCE**0.5
    noise = torch.randn(data.shape, generator=chance)
    gamma = measure_gamma(gaussian_eps, alpha_bar, times, data, noise)
    config = SolverConfig(kind=kind, num_steps=K, trajectory="linspace", **fields)
    solver = config.build(NOISE, "epsilon", gamma)
    solver.scheduler.pixels = math.inf  # a Gaussian is no image, and wants all its noise
    state = solver.start(x)
    for slot in range(K):
        output = gaussian_eps(solver.look(state), times[slot])
        state = solver.advance(state, output, torch.Generator().manual_seed(100 + slot))
    return state.x


@pytest.mark.parametrize(
    "fields", [{"kind": "analytic_ddpm"}, {"kind": "analytic_ddim", "eta": 0.4}]
)
def test_analytic_dpm_draws_a_gaussian_with_its_variance_in_any_number_of_steps(
    fields: Any,
) -> None:
    """There its reverse variance is exact, while DDIM in five steps loses much of it."""
    x = torch.randn(20_000, 16, generator=torch.Generator().manual_seed(1))
    assert float(analytic(x=x, K=5, **fields).var()) == pytest.approx(VARIANCE, rel=0.02)
    plain = SolverConfig(num_steps=5, trajectory="linspace").build(NOISE, "epsilon")
    state = plain.start(x)
    for slot in range(5):
        state = plain.advance(state, gaussian_eps(state.x, int(plain.times[slot])))
    assert float(state.x.var()) < 0.6 * VARIANCE
