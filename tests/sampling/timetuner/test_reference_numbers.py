"""The reference numbers of TimeTuner: a closed form, and digits without a random number."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from torch import Tensor

from stepsearch.sampling.timetuner import Network, SolverConfig
from stepsearch.sampling.timetuner.losses import Batch, batch, loss, step
from stepsearch.sampling.timetuner.solver import State
from tests.sampling.timetuner.exact import (
    DIGITS,
    Continuous,
    alpha,
    digits,
    gaussian,
    sigma,
    waves,
)
from tests.sampling.timetuner.in_range import LOG_SIGMA, NOISE

TEN = torch.linspace(1, 1e-3, 11, dtype=torch.float64)
FIVE = torch.tensor([1, 0.8002, 0.6004, 0.4006, 0.2008, 0.001], dtype=torch.float64)
ONE = torch.ones(1, 1, dtype=torch.float64)


def variance(t: Tensor, data: float) -> Tensor:
    """Of x_t, for data N(0, s^2)."""
    return alpha(t) ** 2 * data + sigma(t) ** 2


def factor(network: Network, tau: Tensor) -> float:
    """What sampling multiplies x_T with, for a network that is linear in x."""
    state = network.solver.start(ONE)
    for slot in range(network.solver.nfe):
        state = step(network, batch(network, state, slot, (0,)), tau[slot])
    return float(state.x)


def noised(network: Network, slot: int, x0: Tensor, noise: Tensor) -> Batch:
    return batch(network, network.solver.noised(slot, x0, noise), slot, (0,))


@pytest.mark.parametrize(
    ("data", "untuned", "exact"), [(1.0, 0.832076, 1.0), (0.25, 0.374371, 0.500091)]
)
def test_ddim_shrinks_a_gaussian(data: float, untuned: float, exact: float) -> None:
    network = Network(gaussian(data), Continuous(TEN))
    assert factor(network, TEN[:-1]) == pytest.approx(untuned, abs=1e-6)
    ideal = (variance(TEN[-1], data) / variance(TEN[0], data)) ** 0.5
    assert float(ideal) == pytest.approx(exact, abs=1e-6)


def test_the_losses_of_a_gaussian_at_its_nominal_times() -> None:
    network = Network(gaussian(0.25), Continuous(TEN))
    expected = [1.954e-9, 5.123e-8, 8.881e-7, 1.032e-5, 8.402e-5, 5.224e-4]
    expected += [2.835e-3, 1.550e-2, 8.644e-2, 3.008e-1]
    for slot, value in enumerate(expected):
        t = TEN[slot]
        x_t = variance(t, 0.25).sqrt() / sigma(t) * ONE  # so that x_t^2 is its expectation
        found = float(loss(network, noised(network, slot, 0 * ONE, x_t), t))
        assert found == pytest.approx(value, rel=6e-4)


ARGMIN = [0.90449, 0.79789, 0.68916, 0.57709, 0.45939, 0.33142, 0.18170]


def test_eq_11_has_its_minimum_where_eps_stays_and_doubles_the_gaussian() -> None:
    """Eq. 9 and 11 are no distance to the exact solution: on a Gaussian they move away from it."""
    network = Network(gaussian(1.0), Continuous(TEN))
    found = []
    for slot in range(10):
        before = noised(network, slot, 0 * ONE, ONE)
        high = float(TEN[slot])
        found.append(least(lambda t, b=before: float(loss(network, b, t)), 1e-4, high))
    assert found[:7] == pytest.approx(ARGMIN, abs=2e-5)
    assert max(found[7:]) < 2e-3
    tau = torch.tensor([*found[:7], 1e-4, 1e-4, 1e-4], dtype=torch.float64)
    assert factor(network, tau) == pytest.approx(2.0396, abs=2e-4)


MIDPOINTS = [0.95135, 0.85160, 0.75187, 0.65213, 0.55236]
MIDPOINTS += [0.45246, 0.35240, 0.25216, 0.15177, 0.05012]


def test_the_times_of_the_exact_solution_lie_in_the_middle_of_the_steps() -> None:
    network = Network(gaussian(1.0), Continuous(TEN))
    assert factor(network, torch.tensor(MIDPOINTS)) == pytest.approx(1.0, abs=2e-4)
    ones = variance(TEN, 1.0)
    for slot, tau in enumerate(MIDPOINTS):
        before = batch(network, State(ONE, slot, None), slot, (0,))
        exact = float((ones[slot + 1] / ones[slot]).sqrt())

        def off(t: Tensor, at: Batch = before, wanted: float = exact) -> float:
            return abs(float(step(network, at, t).x) - wanted)

        assert least(off, float(TEN[slot + 1]), float(TEN[slot])) == pytest.approx(tau, abs=2e-5)


def least(objective: object, low: float, high: float) -> float:
    """Argmin of a function of a float64 scalar tensor."""
    found = minimize_scalar(
        lambda t: objective(torch.tensor(t, dtype=torch.float64)),  # type: ignore[operator]
        bounds=(low, high),
        method="bounded",
        options={"xatol": 1e-7},
    )
    return float(found.x)


@pytest.fixture
def network() -> Network:
    return Network(digits, Continuous(FIVE))


PARALLEL = [
    ([3.5660036e-05, 0.01183243, 0.075249463], 7.736e-06),
    ([0.0085270746, 0.062728211, 0.29761821], 0.03293),
    ([0.28282645, 0.34486289, 0.69115715], 1.46395),
    ([8.0256814, 7.5877217, 7.6021349], 30.1769),
    ([8784.9976, 8325.3901, 9547.9279], 106136),
]


@pytest.mark.parametrize("slot", range(5))
def test_the_parallel_losses_of_digits_and_their_slope(slot: int, network: Network) -> None:
    losses, slope = PARALLEL[slot]
    before = noised(network, slot, DIGITS[:16], waves(16))
    for ratio, value in zip((1, 0.95, 0.9), losses, strict=True):
        assert float(loss(network, before, ratio * FIVE[slot])) == pytest.approx(value, rel=1e-7)
    t = FIVE[slot].clone().requires_grad_()
    (found,) = torch.autograd.grad(loss(network, before, t), t)
    assert float(found) == pytest.approx(slope, rel=1e-3)


def digits_in_labels(x: Tensor, told: Tensor, nominal: Tensor) -> Tensor:
    """The optimal network of the digits, told a label of the T discrete times."""
    low = told.long().clamp(0, len(LOG_SIGMA) - 2)
    level = (LOG_SIGMA[low] + (told - low) * (LOG_SIGMA[low + 1] - LOG_SIGMA[low])).exp()
    scaled = x.double() * (1 + level**2).sqrt()
    score = (scaled @ DIGITS.T - DIGITS.square().sum(1) / 2) / level**2
    return ((scaled - torch.softmax(score, 1) @ DIGITS) / level).float()


def label(t: Tensor) -> Tensor:
    """Of the discrete process's level that the continuous one has at t."""
    level = np.log(float(sigma(t) / alpha(t)))
    return torch.tensor(np.interp(level, LOG_SIGMA, np.arange(1000)), dtype=torch.float32)


@pytest.mark.parametrize("slot", range(4))
def test_the_solver_of_diffusers_has_the_parallel_losses_of_digits_too(slot: int) -> None:
    """On the reference's noise levels, in float32; its end is the discrete process's own."""
    levels = (sigma(FIVE) / alpha(FIVE)).tolist()
    sampler = SolverConfig(num_steps=5, trajectory="given", levels=tuple(levels))
    network = Network(digits_in_labels, sampler.build(NOISE, "epsilon"))
    before = noised(network, slot, DIGITS[:16].float(), waves(16).float())
    assert before.state.slot == slot
    for ratio, value in zip((1, 0.95, 0.9), PARALLEL[slot][0], strict=True):
        found = float(loss(network, before, label(ratio * FIVE[slot])))
        assert found == pytest.approx(value, rel=3e-4)


SEQUENTIAL = {
    1.0: [3.5660036e-05, 0.0086596567, 0.30527691, 6.1319726, 25992.953],
    0.95: [0.01183243, 0.062626943, 0.3570363, 5.752966, 21301.204],
}


@pytest.mark.parametrize("ratio", SEQUENTIAL)
def test_the_sequential_losses_of_digits(ratio: float, network: Network) -> None:
    found, tau = in_turn(network, lambda slot, before: ratio * FIVE[slot])
    assert found == pytest.approx(SEQUENTIAL[ratio], rel=1e-7)
    assert tau == pytest.approx((ratio * FIVE[:-1]).tolist())


def in_turn(network: Network, choose: object) -> tuple[list[float], list[float]]:
    """Algorithm 1 on 16 images with a given choice of tau; the losses and the times."""
    a, s = network.solver.noisiest
    state = network.solver.start(a * DIGITS[:16] + s * waves(16))
    losses, times = [], []
    for slot in range(5):
        before = batch(network, state, slot, (0,))
        tau = choose(slot, before)  # type: ignore[operator]
        losses.append(float(loss(network, before, tau)))
        times.append(float(tau))
        state = step(network, before, tau)
    return losses, times


def best_ratio(network: Network, slot: int, before: Batch) -> float:
    return least(lambda r: float(loss(network, before, r * FIVE[slot])), 0.85, 1.0)


def test_the_argmins_of_digits(network: Network) -> None:
    """The last slot fixed, as in the released code."""

    def choose(slot: int, before: Batch) -> Tensor:
        return FIVE[slot] * (1 if slot == 4 else best_ratio(network, slot, before))

    _, tau = in_turn(network, choose)
    ratios = [t / float(n) for t, n in zip(tau, FIVE, strict=False)]
    assert ratios == pytest.approx([1, 0.99922, 0.98739, 0.96021, 1], abs=2e-5)
    parallel = [
        best_ratio(network, slot, noised(network, slot, DIGITS[:16], waves(16)))
        for slot in range(4)
    ]
    assert parallel == pytest.approx([1, 0.99923, 0.98851, 0.92566], abs=2e-5)
