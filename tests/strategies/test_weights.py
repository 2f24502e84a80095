"""The newer weights against sections 5, 6, 7 and 10 of the methods page."""

import numpy as np
import pytest
import torch
from diffusers.training_utils import compute_loss_weighting_for_sd3

from stepsearch.strategies import strategy
from stepsearch.strategies.weights import WEIGHTS
from stepsearch.strategies.weights.sd3 import cosmap

# fmt: off
# section 10, VLB: schedule, variance, c at VLB_STEPS
VLB_STEPS = [1, 10, 100, 300, 500, 700, 999]
VLB = [
    ("linear", "fixed_large",
     [0.2726921, 0.06822399, 0.00999623, 0.00504392, 0.005509735, 0.007171247, 0.01020449]),
    ("linear", "fixed_small",
     [0.5996715, 0.07897654, 0.01017838, 0.005064048, 0.005514462, 0.007171953, 0.0102045]),
    ("quad", "fixed_large",
     [0.253306, 0.05119601, 0.009305742, 0.004656907, 0.00431809, 0.005642292, 0.01021157]),
    ("cosine", "fixed_large",
     [0.2639083, 0.06232139, 0.009361389, 0.003794511, 0.003117578, 0.003887152, 499.5]),
]
# section 10, debiased, eps
DEBIASED = {0: 0.0100005, 1: 0.01483092, 10: 0.04688549, 100: 0.3422597, 300: 1.240161,
            500: 3.442967, 700: 12.02484, 999: 157.4073}
# fmt: on


@pytest.mark.parametrize(("schedule", "variance", "values"), VLB)
def test_vlb_matches_table_10(schedule, variance, values, alpha_bar):
    config = strategy("vlb", variance=variance, clip=1000)
    w = config.weight(alpha_bar(schedule), "epsilon")
    np.testing.assert_allclose(w[VLB_STEPS], values, rtol=1e-6)


def test_vlb_clips_the_cosine_schedules_end_and_takes_c_1_where_the_variance_is_0(alpha_bar):
    w = strategy("vlb").weight(alpha_bar("cosine"), "epsilon")
    assert w.max() == w[-1] == 1
    small = strategy("vlb", variance="fixed_small").weight(alpha_bar(), "epsilon")
    assert small[0] == small[1]


def test_debiased_matches_section_10(alpha_bar):
    w = strategy("debiased").weight(alpha_bar(), "epsilon")
    np.testing.assert_allclose(w[list(DEBIASED)], list(DEBIASED.values()), rtol=1e-6)
    clipped = strategy("debiased", snr_max=1000).weight(alpha_bar(), "epsilon")
    assert clipped[0] == pytest.approx(0.03162278)
    np.testing.assert_array_equal(clipped[20:], w[20:])


@pytest.mark.parametrize(
    ("t", "expected"), [(100, 0.09386312), (219, 0.2389870), (300, 0.2387664), (500, 0.07174434)]
)
def test_soft_min_snr_matches_section_5(t, expected, alpha_bar):
    w = strategy("soft_min_snr", gamma=1).weight(alpha_bar(), "v_prediction")
    assert w[t] == pytest.approx(expected, rel=1e-6)


def test_soft_min_snr_lies_below_min_snr(alpha_bar):
    soft, hard = (
        strategy(kind, gamma=4).weight(alpha_bar(), "sample")
        for kind in ("soft_min_snr", "min_snr")
    )
    assert np.all(soft < hard)
    np.testing.assert_allclose(soft[[0, -1]], hard[[0, -1]], rtol=1e-3)


@pytest.mark.parametrize(
    ("sigma", "expected"),
    [(0.01, 10004), (0.1, 104), (0.5, 8), (1, 5), (10, 4.01), (80, 4.000156)],
)
def test_edm_weight_matches_section_6(sigma, expected):
    alpha_bar = np.array([0.999999, 1 / (1 + sigma**2)])
    assert strategy("edm").weight(alpha_bar, "sample")[1] == pytest.approx(expected, rel=1e-6)


def test_edm_weight_is_1_on_its_own_preconditioned_loss(alpha_bar):
    """With unit data that loss is the v-loss (section 6: lambda c_out^2 = 1)."""
    w = strategy("edm", sd=1).weight(alpha_bar(), "v_prediction")
    np.testing.assert_allclose(w, 1, rtol=1e-9)


@pytest.mark.parametrize(("sigma", "w"), [(0.01, 0.6494794), (0.25, 1.018592), (0.5, 1.273239)])
def test_cosmap_matches_section_7(sigma, w):
    assert cosmap(np.array(sigma)) == pytest.approx(w, rel=1e-6)


@pytest.mark.parametrize("kind", ["cosmap", "sigma_sqrt"])
def test_sd3_weights_are_those_of_diffusers_on_the_velocity(kind):
    sigma = np.linspace(0.05, 0.95, 50)  # of x = (1 - sigma) x0 + sigma eps
    alpha_bar = (1 - sigma) ** 2 / ((1 - sigma) ** 2 + sigma**2)
    # ||v - v^||^2 = ||x0 - x0^||^2 / sigma^2 for v = eps - x0 at a given x
    on_velocity = strategy(kind).weight(alpha_bar, "sample") * sigma**2
    expected = compute_loss_weighting_for_sd3(kind, torch.from_numpy(sigma))
    np.testing.assert_allclose(on_velocity, expected, rtol=1e-6)


@pytest.mark.parametrize("kind", [kind for kind in WEIGHTS if kind not in ("uniform", "table")])
def test_every_weight_is_the_same_on_the_x0_scale_for_every_target(kind, alpha_bar):  # section 1
    abar, config = alpha_bar("quad"), strategy(kind)
    snr = abar / (1 - abar)
    on_x0 = config.weight(abar, "sample")
    np.testing.assert_allclose(config.weight(abar, "epsilon") * snr, on_x0)
    np.testing.assert_allclose(config.weight(abar, "v_prediction") * (snr + 1), on_x0)


def test_weights_without_bound_take_their_limits_where_no_signal_is_left(alpha_bar):
    abar = alpha_bar().copy()
    abar[-1] = 0
    assert strategy("edm", sd=0.5).weight(abar, "sample")[-1] == pytest.approx(4)
    assert strategy("edm", sd=0.5).weight(abar, "v_prediction")[-1] == pytest.approx(4)
    for kind in ("edm", "debiased", "cosmap"):
        on_epsilon = strategy(kind).weight(abar, "epsilon")
        assert on_epsilon[-1] == on_epsilon[-2]
