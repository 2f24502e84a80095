"""Trajectories: the timesteps of the papers, digit for digit."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from stepsearch.diffusion.noise import VPConfig
from stepsearch.errors import UserError
from stepsearch.sampling.timetuner import knots
from stepsearch.sampling.timetuner.dmn import bound
from stepsearch.sampling.timetuner.trajectories import quadratic_times
from tests.sampling.timetuner.exact import alpha

PROCESS = VPConfig().build()
NOISE = PROCESS.scheduler_config()

K10 = {
    "leading": range(900, -1, -100),
    "leading_1": range(901, 0, -100),
    "trailing": range(999, 98, -100),
    "linspace": [999, 888, 777, 666, 555, 444, 333, 222, 111, 0],
    "quadratic": [800, 632, 483, 355, 246, 158, 88, 39, 9, 0],
}


@pytest.mark.parametrize("trajectory", K10)
def test_integer_trajectories_are_those_of_the_papers(trajectory: Any) -> None:
    found = knots(trajectory, 10, PROCESS.alpha_bar)
    assert found.times.tolist() == list(K10[trajectory])
    np.testing.assert_allclose(found.sigmas[:-1], PROCESS.sigma[found.times.astype(int)])
    assert found.sigmas[-1] == 0


VP = (alpha(torch.arange(1, 1001) / 1000) ** 2).numpy()
LOG_SNR = [1, 0.8991, 0.7856, 0.6534, 0.4934, 0.3046, 0.1406, 0.0536, 0.0181, 0.005]
SQUARES = [1, 0.8157, 0.6502, 0.5034, 0.3753, 0.2661, 0.1755, 0.1038, 0.0508, 0.0165]


@pytest.mark.parametrize(
    ("trajectory", "times"), [("log_snr", LOG_SNR), ("quadratic_continuous", SQUARES)]
)
def test_continuous_trajectories_are_those_of_dpm_solver(trajectory: Any, times: Any) -> None:
    """On the continuous process at t = (n + 1) / 1000; log SNR between them by interpolation."""
    found = knots(trajectory, 10, VP)
    np.testing.assert_allclose((found.times + 1) / 1000, times, atol=1.5e-4)
    assert found.sigmas[-1] == pytest.approx(math.sqrt(1 / VP[0] - 1))
    np.testing.assert_allclose(quadratic_times(1, 1e-3, 10)[:10], SQUARES, atol=5e-5)


def test_log_snr_falls_evenly_and_edm_by_its_seventh_root() -> None:
    steps = np.diff(np.log(knots("log_snr", 7, VP).sigmas))
    np.testing.assert_allclose(steps, steps[0])
    roots = np.diff(knots("edm", 7, VP).sigmas[:-1] ** (1 / 7))
    np.testing.assert_allclose(roots, roots[0])


def test_ays_and_gits_are_their_authors_on_the_authors_process() -> None:
    """EDM's 80 ... 0.002 in 6 steps: AYS' closed form for N(0, 0.5^2), and GITS' CIFAR-10."""
    sigma = np.geomspace(0.002, 80, 1000)
    found = {name: knots(name, 6, 1 / (1 + sigma**2)).sigmas for name in ("ays", "gits")}
    ays = [80, 1.83269, 0.86039, 0.49888, 0.28906, 0.13520, 0.002]
    np.testing.assert_allclose(found["ays"], ays, rtol=1e-4)
    gits = [80, 10.9836, 3.8811, 1.584, 0.5666, 0.1698, 0.002]
    np.testing.assert_allclose(found["gits"], gits, rtol=1e-4)


def test_dmn_finds_its_authors_minimum() -> None:
    """Of the released objective, by scipy's trust-constr from two starts: 5 steps of latents."""
    found = knots("dmn_latent", 5, VP)
    np.testing.assert_allclose(
        (found.times + 1) / 1000, [1, 0.65819, 0.49784, 0.30946, 0.10136], atol=2e-5
    )
    a = alpha(torch.linspace(1, 1e-3, 6, dtype=torch.float64)).numpy()
    starts = (np.sqrt(1 / a**2 - 1), knots("log_snr", 5, VP).sigmas)
    for sigmas, value in zip((found.sigmas, *starts), (49.904819, 75.9653, 231.4785), strict=True):
        assert float(bound(torch.tensor(-np.log(sigmas)), 2)) == pytest.approx(value)


@pytest.mark.parametrize("K", [1, 2, 3, 7, 8, 20])
@pytest.mark.parametrize("trajectory", ["dmn", "dmn_latent"])
def test_dmn_lowers_its_bound_and_keeps_the_order(trajectory: Any, K: int) -> None:
    found, power = knots(trajectory, K, VP).sigmas, 1 if trajectory == "dmn" else 2
    assert (np.diff(found) < 0).all()
    after, before = (
        float(bound(torch.tensor(-np.log(sigmas)), power))
        for sigmas in (found, knots("log_snr", K, VP).sigmas)
    )
    assert after <= before
    assert (after < 0.99 * before) == (K > 2)


def test_dmn_of_very_many_steps_is_refused() -> None:
    with pytest.raises(UserError, match=r"^sampler.num_steps must be at most 100 for dmn, got 5"):
        knots("dmn", 500, VP)


def test_score_optimal_steps_cost_the_same() -> None:
    """s^2 E|grad log p_t' - grad log p_t|^2 over x_t, for data N(0, 0.5^2)."""
    sigma2 = knots("score_optimal", 500, VP).sigmas ** 2
    noise = sigma2 / (1 + sigma2)
    variance = (1 - noise) * 0.25 + noise
    costs = noise[:-1] * variance[:-1] * (1 / variance[1:] - 1 / variance[:-1]) ** 2
    np.testing.assert_allclose(costs[:-20], costs[0], rtol=0.02)  # those at the end are coarse
