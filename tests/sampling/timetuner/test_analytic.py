"""Analytic-DPM, on data where its variance is exact."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from stepsearch.diffusion.noise import VPConfig
from stepsearch.sampling.timetuner import (
    EndToEndConfig,
    GradientConfig,
    Network,
    SolverConfig,
    evaluate,
    knots,
    measure_gamma,
    tune,
    tune_end_to_end,
)
from tests.sampling.timetuner.exact import DIGITS
from tests.sampling.timetuner.in_range import InRange

PROCESS = VPConfig().build()
NOISE = PROCESS.scheduler_config()


VARIANCE = 0.3


def gaussian_eps(x: Tensor, t: Tensor | int) -> Tensor:
    """The network of data N(0, 0.3)."""
    abar = float(PROCESS.alpha_bar[int(t)])
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


def test_gamma_is_that_of_the_noise_whatever_the_network_predicts() -> None:
    def x0(x: Tensor, t: Tensor) -> Tensor:
        a, s = alpha_and_sigma(t)
        return (x - s * gaussian_eps(x, t)) / a

    def v(x: Tensor, t: Tensor) -> Tensor:
        a, s = alpha_and_sigma(t)
        return a * gaussian_eps(x, t) - s * x0(x, t)

    def alpha_and_sigma(t: Tensor) -> tuple[float, float]:
        abar = float(PROCESS.alpha_bar[int(t)])
        return math.sqrt(abar), math.sqrt(1 - abar)

    images, noise = torch.randn(2, 100, 16, generator=torch.Generator().manual_seed(0))
    given = torch.tensor(PROCESS.alpha_bar), [999, 600, 200, 20], images, noise
    eps = measure_gamma(gaussian_eps, *given)
    torch.testing.assert_close(measure_gamma(x0, *given, "sample"), eps)
    torch.testing.assert_close(measure_gamma(v, *given, "v_prediction"), eps)


@pytest.mark.parametrize("kind", ["analytic_ddpm", "analytic_ddim"])
def test_both_are_tuned_slot_by_slot_and_all_slots_together(kind: Any) -> None:
    images = 0.5 * DIGITS.float().view(-1, 1, 8, 8)
    gamma = torch.tensor([1.0, 0.9, 0.7, 0.3])
    solver = SolverConfig(kind=kind, num_steps=4).build(NOISE, "epsilon", gamma)
    network = Network(evaluate(InRange().eval()), solver)
    small: dict[str, Any] = {"batch_size": 8, "batches": 2, "held_out": 1, "check_every": 2}
    for strategy in ("sequential", "parallel"):
        config = GradientConfig(strategy=strategy, iterations=4, lr=0.02, **small)
        tuned = tune(network, images, config)
        assert (tuned.tau != tuned.untuned).any()
        assert all(a <= b for a, b in zip(tuned.loss, tuned.loss_untuned, strict=True))
    together = EndToEndConfig(iterations=6, batch_size=16, real=64, held_out=64)
    found = tune_end_to_end(network, images, together)
    assert found.distance is not None
    closer = found.distance[1] < found.distance[0]
    assert closer or kind == "analytic_ddpm", "whose noise hides much in so few images"
    assert closer == (not torch.equal(found.tau, found.untuned))
    assert (found.tau.diff() < 0).all()
    assert found.tau[-1] == found.untuned[-1]
