"""SpeeD's analysis against section 3.1 of the methods page and Table 8 of its supplement."""

import numpy as np
import pytest

from stepsearch.errors import UserError
from stepsearch.strategies.areas import LinearBetas, areas, change, increment, increment_of
from stepsearch.strategies.sde import EDM, VE, vp

LINEAR = LinearBetas(1e-4, 0.02, 1000)

# section 3.1: closed form of tau for a magnitude r
CLOSED_FORM_TAU = {
    2: 259.9, 5: 398.2, 7.2: 441.4, 10: 477.0, 20: 544.7,
    50: 623.0, 100: 676.3, 143.6: 702.5, 500: 786.3, 1000: 829.2,
}  # fmt: skip


@pytest.mark.parametrize(("r", "tau"), CLOSED_FORM_TAU.items())
def test_the_closed_form_of_tau_matches_table_3_1(r, tau, alpha_bar):
    assert LINEAR.tau(r) == pytest.approx(tau, abs=0.06)
    assert abs(areas(alpha_bar(), r).tau - LINEAR.tau(r)) < 5


def test_the_acceleration_ends_where_3_1_says(alpha_bar):
    assert LINEAR.peak() == pytest.approx(220.14, abs=0.005)
    t = np.arange(1, 1001)
    assert t[np.gradient(LINEAR.psi_bound(t)).argmax()] == 220


# section 3.4: argmax of the weight; 3.1 with the figure's r = 7.2
@pytest.mark.parametrize(("schedule", "peak"), [("linear", 219), ("quad", 411), ("cosine", 495)])
def test_areas_of_a_schedule(schedule, peak, alpha_bar):
    found = areas(alpha_bar(schedule))
    assert found.peak == peak
    assert alpha_bar(schedule)[found.tau] <= 1 / 7.2 < alpha_bar(schedule)[found.tau - 1]
    assert sum(found.shares) == pytest.approx(1)


def test_the_convergence_area_is_that_of_the_papers_figure(alpha_bar):
    found = areas(alpha_bar())
    assert found.tau == 440
    np.testing.assert_allclose(found.shares, (0.219, 0.221, 0.56))


@pytest.mark.parametrize("r", [1.5, 0, -1, 30_000, float("nan")])
def test_areas_refuse_a_boundary_that_does_not_follow_the_fastest_change(r, alpha_bar):
    with pytest.raises(UserError, match=r"r must be in 1\.653\.\.2\.478e\+04 .*, got"):
        areas(alpha_bar(), r)


def test_the_increment_of_independent_noisings_is_not_the_chains(alpha_bar):
    """Section 3.1: 1.614 at t = 400, where the chain's own step has 0.00810."""
    abar = alpha_bar()
    assert increment(abar).psi[400] == pytest.approx(1.614, abs=5e-4)
    assert 1 - abar[401] / abar[400] == pytest.approx(0.00810, abs=5e-5)
    rng = np.random.default_rng(0)
    x0, (first, second) = 0.7, rng.standard_normal((2, 400_000))
    now, then = (
        np.sqrt(abar[t]) * x0 + np.sqrt(1 - abar[t]) * noise
        for t, noise in ((100, first), (101, second))
    )
    delta, found = then - now, increment(abar)
    assert delta.mean() == pytest.approx(found.phi[100] * x0, abs=3e-3)
    assert delta.var() == pytest.approx(found.psi[100], rel=1e-2)


@pytest.mark.parametrize("schedule", ["linear", "quad", "cosine", "scaled_linear", "const"])
def test_theorem_1_holds_on_every_schedule(schedule, alpha_bar):
    found = increment(alpha_bar(schedule))
    assert np.all(found.phi**2 <= found.phi_bound)
    assert np.all(found.psi >= found.psi_bound)


def test_the_papers_own_bounds_hold_on_its_schedule(alpha_bar):
    found, t = increment(alpha_bar()), np.arange(1, 1000)
    assert np.all(alpha_bar()[:-1] <= np.exp(-LINEAR.g(t)))  # Lemma 1
    assert np.all(found.phi**2 <= LINEAR.phi_bound(t))
    assert np.all(found.psi >= LINEAR.psi_bound(t))


def test_the_slope_is_that_of_the_increments_variance(alpha_bar):
    slope = np.gradient(increment(alpha_bar()).psi) / 2
    np.testing.assert_allclose(change(alpha_bar())[1:-2], slope[1:-1], atol=3e-5)


@pytest.mark.parametrize("process", [vp(0.1, 19.9), VE, EDM], ids=["vp", "ve", "edm"])
def test_table_8_lists_derivatives(process):
    t, step = np.linspace(0.05, 1, 40), 1e-6
    for value, slope in ((process.s, process.s_dot), (process.sigma, process.sigma_dot)):
        expected = (value(t + step) - value(t - step)) / (2 * step)
        np.testing.assert_allclose(slope(t), expected, rtol=1e-5, atol=1e-8)


def test_the_variance_preserving_row_is_the_linear_schedule(alpha_bar):
    t = (np.arange(1000) + 1) / 1000
    process, abar = vp(0.1, 19.9), alpha_bar()
    np.testing.assert_allclose(process.alpha_bar(t), abar, rtol=0.2)
    phi, psi = increment_of(process.s(t), process.s(t) * process.sigma(t))
    np.testing.assert_allclose(phi, increment(abar).phi, atol=5e-5)
    np.testing.assert_allclose(psi, increment(abar).psi, atol=0.02)


def test_noise_that_grows_without_end_has_the_areas_of_its_signal_level():
    """EDM's sigma from 0.002 to 80, geometric; only s = 1 makes Psi itself grow for ever."""
    sigma = np.geomspace(0.002, 80, 1000)
    assert np.all(np.diff(increment_of(EDM.s(sigma), EDM.sigma(sigma))[1]) > 0)
    found = areas(EDM.alpha_bar(sigma))
    assert sigma[found.peak] == pytest.approx(1, rel=0.02)  # half signal, half noise
    assert sigma[found.tau] == pytest.approx(np.sqrt(6.2), rel=0.02)  # 1 + sigma^2 = 7.2
