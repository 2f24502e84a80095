"""A strategy on another noise process: the same where the noise is the same."""

from itertools import pairwise

import numpy as np
import pytest
from scipy.stats import norm

from stepsearch.diffusion.noise import EDMConfig, FlowConfig, VPConfig
from stepsearch.strategies import DENSITIES, STRATEGIES, strategy
from stepsearch.strategies.carry import carry_density, carry_time, carry_weight

VP, EDM, FLOW = VPConfig().build(), EDMConfig().build(), FlowConfig().build()
ZERO = VPConfig(zero_terminal_snr=True).build()
COARSE = VPConfig(schedule="cosine", timesteps=100).build()
PROCESSES = {"vp": VP, "edm": EDM, "flow": FLOW, "zero": ZERO, "coarse": COARSE}
every_process = pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES)


@every_process
def test_nothing_changes_on_the_same_process(process):
    p = np.random.default_rng(0).dirichlet(np.ones(process.T))
    np.testing.assert_allclose(carry_density(p, process.log_snr, process.log_snr), p, atol=1e-15)
    w = np.random.default_rng(1).uniform(size=process.T)
    target = process.config.targets[0]
    carried = carry_weight(
        w, process.log_snr, process.log_snr, prediction_type=target, target=target
    )
    np.testing.assert_allclose(carried, w)


@every_process
@pytest.mark.parametrize("kind", ["speed", *DENSITIES])
def test_a_carried_density_is_a_density(process, kind):
    for source in PROCESSES.values():
        p = STRATEGIES[kind]().build(source.alpha_bar, source.config.targets[0]).p
        carried = carry_density(p, source.log_snr, process.log_snr)
        assert carried.shape == (process.T,)
        assert carried.sum() == pytest.approx(1, abs=1e-9)
        assert np.all(carried >= 0)


def test_from_vp_to_edm_to_flow_and_back_no_mass_moves_further_than_a_bin():
    """Down to where EDM's range ends; what lies beyond stays at its end."""
    p = strategy("speed", k=5, tau=600).build(VP.alpha_bar).p
    back = p
    tour = [VP, EDM, FLOW, VP]
    for source, to in pairwise(tour):
        back = carry_density(back, source.log_snr, to.log_snr)
    before, after = np.cumsum(p), np.cumsum(back)
    inside = np.flatnonzero((VP.log_snr > EDM.log_snr[-2]) & (VP.log_snr < 8))
    inside = inside[inside > 3]
    assert len(inside) > 900
    # no bin of the three is wider here than three of VP's
    assert np.all(after[inside] <= before[inside + 3] + 1e-12)
    assert np.all(after[inside] >= before[inside - 3] - 1e-12)
    assert back.sum() == pytest.approx(1)


def test_edms_log_normal_on_the_linear_schedule_has_the_numbers_of_the_methods_page():
    """Section 6: ln sigma ~ N(-1.2, 1.2^2), bin edges halfway, end bins take the tails."""
    fine = EDMConfig(timesteps=10_000, sigma_min=1e-4).build()
    ln_sigma = -fine.log_snr / 2
    p = norm.pdf(ln_sigma, -1.2, 1.2)
    carried = carry_density(p / p.sum(), fine.log_snr, VP.log_snr)
    expected = {0: 3.754328e-3, 1: 4.295491e-3, 10: 7.052388e-3, 100: 3.316834e-3}
    expected |= {219: 1.344845e-3, 300: 8.353265e-4, 500: 2.322776e-4, 700: 2.111854e-5}
    for t, value in expected.items():
        assert carried[t] == pytest.approx(value, rel=2e-3)
    assert carried.argmax() == 16


@pytest.mark.parametrize("kind", ["min_snr", "p2"])
@pytest.mark.parametrize(("process", "target"), [(EDM, "edm"), (FLOW, "flow"), (ZERO, "sample")])
def test_a_carried_weight_is_that_of_the_strategy_built_there(kind, process, target):
    """These weights are functions of log-SNR, so carrying and building anew must agree."""
    there = STRATEGIES[kind]().weight(process.alpha_bar, target)
    for source, of in ((VP, "epsilon"), (VP, "v_prediction"), (EDM, "edm")):
        here = STRATEGIES[kind]().weight(source.alpha_bar, of)
        carried = carry_weight(
            here, source.log_snr, process.log_snr, prediction_type=of, target=target
        )
        covered = np.abs(process.log_snr) < 6  # beyond, VP's timesteps lie far apart
        np.testing.assert_allclose(carried[covered], there[covered], rtol=0.02)
        assert np.all(np.isfinite(carried))


@pytest.mark.parametrize("to", PROCESSES, ids=str)
@pytest.mark.parametrize("share", [0.3, 0.5, 0.7])
def test_a_position_in_time_is_as_noisy_on_the_other_process(share, to):
    """0.7 of 1000 is halfway between timesteps 699 and 700."""
    process = PROCESSES[to]
    level = np.interp(share * VP.T - 0.5, np.arange(VP.T), VP.log_snr)
    as_noisy = np.interp(-level, -process.log_snr, np.arange(process.T))
    carried = carry_time(share, VP.log_snr, process.log_snr)
    assert carried * process.T - 0.5 == pytest.approx(as_noisy, abs=0.1)


def test_speeds_tau_of_the_linear_schedule_on_flow():
    """flow's s = 1 / (1 + SNR^(1/2)) is (t + 1) / T."""
    snr = np.exp((VP.log_snr[699] + VP.log_snr[700]) / 2)
    t_plus_1 = 1000 / (1 + snr**0.5)
    assert carry_time(0.7, VP.log_snr, FLOW.log_snr) == pytest.approx(t_plus_1 / 1000, abs=1e-3)


@every_process
def test_the_ends_of_time_are_its_ends_on_every_process(process):
    assert carry_time(1, VP.log_snr, process.log_snr) == 1
    assert carry_time(0, VP.log_snr, process.log_snr) == 0


def test_a_position_beyond_the_other_process_is_at_its_end():
    high = EDMConfig(sigma_max=1e5).build()
    assert carry_time(0.99, high.log_snr, EDM.log_snr) == 1
    assert carry_time(0.01, EDM.log_snr, VP.log_snr) == 0
    assert carry_time(0.99, VP.log_snr, high.log_snr) < 0.9


def test_a_position_comes_back():
    there = carry_time(0.6, VP.log_snr, FLOW.log_snr)
    assert carry_time(there, FLOW.log_snr, VP.log_snr) == pytest.approx(0.6, abs=1e-3)
