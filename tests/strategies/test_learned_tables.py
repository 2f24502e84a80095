"""The strategies that learn p or w from losses, against sections 6, 8, 9, 10 and 12."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from stepsearch.diffusion.noise import FlowConfig
from stepsearch.errors import UserError
from stepsearch.strategies import STRATEGIES, strategy
from stepsearch.strategies.adaptive.bins import log_sigma
from stepsearch.strategies.adaptive.decl import DeclConfig
from stepsearch.strategies.adaptive.history import empty_history, means, push
from stepsearch.strategies.adaptive.infonoise import InfoNoise, gate
from stepsearch.strategies.base import x0_errors

LEARNED = [
    "loss_second_moment",
    "vdm_adaptive",
    "infonoise",
    "edm2_uncertainty",
    "decl",
    "gradient_variance",
]
FOUR = np.array([0.9, 0.6, 0.3, 0.1])
"""alpha_bar of a process with four timesteps."""


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def observe(built, t, loss):
    built.observe(torch.tensor(t), torch.tensor(loss, dtype=torch.float32))


# --- LossSecondMoment, section 8


def test_loss_second_moment_matches_the_golden_numbers():
    built = strategy("loss_second_moment", history=2).build(FOUR)
    observe(built, [0, 1, 2, 3, 0, 1, 2], [1.0, 2, 0, 1, 3, 2, 4])
    np.testing.assert_allclose(built.p, 0.25)  # t = 3 has one loss only
    observe(built, [3], [1.0])
    np.testing.assert_allclose(
        built.p, [0.27724588, 0.24800265, 0.35062515, 0.12412632], rtol=1e-7
    )
    w = [0.90172666, 1.00805376, 0.71301217, 2.01407722]
    np.testing.assert_allclose(built.w, w, rtol=1e-7)
    observe(built, [0], [5.0])
    np.testing.assert_allclose(
        built.p, [0.41415433, 0.20102309, 0.28418603, 0.10063655], rtol=1e-7
    )


def test_loss_second_moment_is_unbiased_for_its_weighting(alpha_bar):
    config = strategy("loss_second_moment", w={"kind": "min_snr"}, history=1, floor=0.01)
    built = config.build(alpha_bar())
    observe(built, list(range(1000)), np.linspace(1, 3, 1000).tolist())
    min_snr = strategy("min_snr").weight(alpha_bar(), "epsilon")
    np.testing.assert_allclose(1000 * built.p * built.w, min_snr)
    assert built.p[0] < built.p[999]  # Min-SNR makes the least noisy loss small


def test_the_last_values_of_a_row_stay_whatever_the_batch():
    state = push(empty_history(3, 2), torch.tensor([0, 1, 0, 0, 0]), torch.arange(5.0).double())
    assert sorted(state["history"][0].tolist()) == [3, 4]
    assert state["count"][:3].tolist() == [4, 1, 0]
    state = push(state, torch.tensor([0]), torch.tensor([9.0]).double())
    assert sorted(state["history"][0].tolist()) == [4, 9]
    np.testing.assert_allclose(means(state), [6.5, 1, 0])


# --- InfoNoise, section 12


def quantiles(density, values, at):
    """The first of the values at which the running sum reaches each of `at`."""
    return values[np.searchsorted(np.cumsum(density) / np.sum(density), at)]


@pytest.mark.parametrize(
    ("c", "expected"), [(0.15, [0.1364, 0.4345, 1.385]), (0.0, [0.00357, 0.0428, 0.605])]
)
def test_infonoise_of_a_gaussian_source_has_the_quantiles_of_section_12(c, expected):
    edges = np.linspace(np.log(0.002), np.log(80), 65)
    sigma = np.exp((edges[1:] + edges[:-1]) / 2)
    abar = 1 / (1 + sigma**2)
    config = strategy(
        "infonoise", gate=c, over_weight=False, floor=0, history=1, newness=1.0, bins=64
    )
    built = config.build(abar)
    # mmse = sigma^2 / (1 + sigma^2), and ||eps||^2-errors are mmse / sigma^2
    observe(built, list(range(64)), (1 / (1 + sigma**2)).tolist())
    built.refresh()
    np.testing.assert_allclose(quantiles(built.p, sigma, [0.1, 0.5, 0.9]), expected, rtol=1e-3)


def test_infonoise_learns_the_same_density_whatever_the_denoiser_predicts(alpha_bar):
    abar = alpha_bar()
    mmse = 1 / (1 + abar / (1 - abar))
    densities = []
    for target in ("epsilon", "v_prediction", "sample", "flow", "edm"):
        config = strategy("infonoise", history=1, floor=0, over_weight=False, bins=20)
        built = config.build(abar, target)
        observe(built, list(range(1000)), (mmse * x0_errors(abar, target)).tolist())
        built.refresh()
        densities.append(built.p)
    for other in densities[1:]:
        np.testing.assert_allclose(other, densities[0], rtol=1e-5)
    assert densities[0].sum() == pytest.approx(1)


def test_infonoise_over_the_weight_makes_density_times_weight_the_information(alpha_bar):
    abar = alpha_bar()
    products = []
    for weighting in ("uniform", "min_snr"):
        config = strategy("infonoise", history=1, floor=0, newness=1.0, w={"kind": weighting})
        built = config.build(abar)
        observe(built, list(range(1000)), (1 - abar).tolist())
        built.refresh()
        product = built.p * built.w
        products.append(product / product.sum())
    np.testing.assert_allclose(products[0], products[1], rtol=1e-6)


@pytest.mark.parametrize("weighting", ["min_snr", "p2"])
def test_infonoise_draws_only_the_floor_where_the_weight_is_0(weighting):
    abar = FlowConfig().build().alpha_bar
    config = strategy("infonoise", history=1, newness=1.0, w={"kind": weighting})
    built = config.build(abar, "flow")
    observe(built, list(range(1000)), [0.5] * 1000)
    built.refresh()
    assert built.w[-1] == 0
    assert built.p[-1] == pytest.approx(config.floor / 1000)


def test_infonoise_waits_for_its_warm_up_and_for_enough_errors(alpha_bar, generator):
    built = strategy("infonoise", warmup=0.2, every=1, bins=2).build(alpha_bar())
    uniform = built.p

    def step(number, progress, n=512):
        t = built.draw(n, generator)
        losses = torch.linspace(0.1, 1, n)
        built.after_update(
            SimpleNamespace(t=t, losses=lambda: losses, number=number, progress=progress)
        )

    step(0, 0.5, n=16)  # the low-noise bin is still too empty
    np.testing.assert_array_equal(built.p, uniform)
    for number in range(30):
        step(number, 0.1)
    np.testing.assert_array_equal(built.p, uniform)
    step(30, 0.2)
    assert not np.array_equal(built.p, uniform)
    assert isinstance(built, InfoNoise)


def test_the_gate_is_half_at_its_level():
    np.testing.assert_allclose(gate(np.array([0.15, 1e9]), 0.15, 3), [0.5, 1])


def test_levels_are_finite_where_no_signal_is_left():
    dark = np.array([0.5, 0.0])  # SNR 0
    assert np.isfinite(log_sigma(dark)).all()
    for target in ("epsilon", "v_prediction", "sample", "flow", "edm"):
        built = strategy("infonoise").build([*np.geomspace(0.99, 1e-3, 999), 0.0], target)
        observe(built, list(range(1000)), [1.0] * 1000)
        assert np.isfinite(built.p).all()


# --- VDM++, section 12


def test_vdm_adaptive_draws_by_the_mean_weighted_loss_and_is_unbiased(alpha_bar):
    built = strategy("vdm_adaptive", bins=2, floor=0.0, decay=0.5).build(alpha_bar("linear", 100))
    split = int((built._bin == 1).sum())  # the bins go from noisy to clean
    assert 0 < split < 100
    observe(built, [0, 99, 99], [1.0, 3, 3])
    ratio = built.p[99] / built.p[0]
    assert ratio == pytest.approx(3)
    np.testing.assert_allclose(100 * built.p * built.w, 1)


# --- EDM2, section 6


def test_uncertainty_learns_the_expected_loss(alpha_bar, generator):
    abar = alpha_bar()
    built = strategy("edm2_uncertainty", lr=0.03).build(abar)
    expected = torch.from_numpy(0.01 + abar**2)
    for _ in range(1500):
        t = built.draw(64, generator)
        observe(built, t.tolist(), expected[t].tolist())
    levels = slice(50, 950)
    np.testing.assert_allclose(
        built.u.exp()[levels], expected[levels], rtol=0.1
    )  # e^u = E[w L]: every timestep contributes 1
    np.testing.assert_allclose((built.w * expected.numpy())[levels], 1, rtol=0.15)
    np.testing.assert_allclose(built.p, 1e-3)


def test_uncertainty_without_strength_is_its_weighting(alpha_bar):
    built = strategy("edm2_uncertainty", strength=0, w={"kind": "p2"}).build(alpha_bar())
    observe(built, [1, 500, 900], [3.0, 1, 0.1])
    np.testing.assert_array_equal(built.w, strategy("p2").weight(alpha_bar(), "epsilon"))


# --- DeCL, section 12


def test_decl_widens_from_the_noisiest_cluster_when_the_loss_stands_still():
    built = DeclConfig(clusters=4, patience=2).build(np.linspace(0.99, 0.01, 100))
    np.testing.assert_allclose(np.flatnonzero(built.p), np.arange(75, 100))
    for loss in (3.0, 2.0, 1.0):  # improves
        observe(built, [80, 90], [loss, loss])
    assert built.p[74] == 0
    observe(built, [80], [1.0])
    observe(built, [80], [float("nan")])  # no improvement either
    np.testing.assert_allclose(built.p[50:], 1 / 50)
    for _ in range(20):
        observe(built, [80], [1.0])
    np.testing.assert_allclose(built.p, 0.01)


def test_decl_with_one_cluster_is_uniform_and_takes_more_clusters_than_timesteps():
    np.testing.assert_allclose(DeclConfig(clusters=1).build(FOUR).p, 0.25)
    np.testing.assert_allclose(DeclConfig(clusters=9).build(FOUR).p, [0, 0, 0, 1])


# --- the negative control, section 10


class Gradients:
    """A step whose gradients are normal with a standard deviation that grows with t."""

    def __init__(self, number, generator, n=8):
        self.number, self.generator = number, generator
        self.x0 = torch.zeros(n, 1, 4, 4)

    def gradient(self, x0, t, noise):
        mean_of = noise.flatten(1)[:, :4].mean(0)  # variance 1 / h an element
        return 2.0 + mean_of * (1 + t[0] // 50)


def test_gradient_variance_is_the_trace_of_one_samples_covariance(alpha_bar, generator):
    config = strategy("gradient_variance", bins=2, every=1, decay=0.99, floor=0)
    built = config.build(alpha_bar("linear", 100))
    built.before_update(Gradients(0, generator))
    np.testing.assert_allclose(built.p, 0.01)  # one bin is still unknown
    for number in range(1, 2000):
        built.before_update(Gradients(number, generator))
    np.testing.assert_allclose(built.state["variance"], [4, 16], rtol=0.25)
    assert built.p[60] / built.p[10] == pytest.approx(4, rel=0.35)
    np.testing.assert_array_equal(built.w, np.ones(100))


def test_gradient_variance_takes_batches_of_one(alpha_bar, generator):
    built = strategy("gradient_variance", bins=2, every=1).build(alpha_bar("linear", 100))
    built.before_update(Gradients(0, generator, n=1))
    assert built.state["estimates"].tolist() == [1, 0]


# --- all of them


@pytest.mark.parametrize("kind", LEARNED)
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_losses_that_are_not_finite_teach_nothing(kind, bad, alpha_bar, generator):
    built = strategy(kind).build(alpha_bar("linear", 100))
    for _ in range(3):
        t = built.draw(50, generator)
        observe(built, t.tolist(), [bad] * 50)
        observe(built, [3, 4, 5], [1.0, bad, 2.0])
    assert np.isfinite(built.p).all()
    assert built.p.sum() == pytest.approx(1)
    assert np.isfinite(built.w).all()
    assert built.draw(7, generator).max() < 100


@pytest.mark.parametrize("kind", LEARNED)
def test_losses_of_zero_leave_a_density(kind, alpha_bar, generator):
    built = strategy(kind).build(alpha_bar("linear", 100))
    for _ in range(30):
        observe(built, list(range(100)), [0.0] * 100)
    assert built.p.sum() == pytest.approx(1)
    assert np.isfinite(built.w).all()


@pytest.mark.parametrize("kind", LEARNED)
def test_draws_follow_what_was_learned(kind, alpha_bar, generator):
    built = strategy(kind).build(alpha_bar("linear", 100))
    for _ in range(60):
        t = built.draw(100, generator)
        observe(built, t.tolist(), (0.1 + t.float() / 100).tolist())
    draws = np.concatenate([built.draw(500, generator).numpy() for _ in range(100)])
    seen = np.bincount(draws, minlength=100).reshape(20, 5).sum(1)
    expected = built.p.reshape(20, 5).sum(1) * len(draws)
    assert np.all(abs(seen - expected) <= 4 * np.sqrt(expected))


@pytest.mark.parametrize("kind", [k for k in LEARNED if "floor" in STRATEGIES[k].model_fields])
def test_the_floor_of_1_is_uniform(kind):
    built = strategy(kind, floor=1).build(FOUR)
    observe(built, [0, 1, 2, 3] * 12, [1.0, 2, 3, 4] * 12)
    np.testing.assert_allclose(built.p, 0.25)
    np.testing.assert_allclose(built.w, 1)


@pytest.mark.parametrize(
    ("kind", "parameters", "message"),
    [
        ("loss_second_moment", {"history": 0}, "history must be at least 1, got 0"),
        ("loss_second_moment", {"floor": -0.1}, "floor must be at least 0, got -0.1"),
        ("loss_second_moment", {"floor": 1.5}, "floor must be at most 1, got 1.5"),
        ("vdm_adaptive", {"bins": 1}, "bins must be at least 2, got 1"),
        ("vdm_adaptive", {"decay": 1}, "decay must be less than 1, got 1"),
        ("vdm_adaptive", {"floor": 2}, "floor must be at most 1, got 2"),
        ("infonoise", {"bins": 1}, "bins must be at least 2, got 1"),
        ("infonoise", {"history": 0}, "history must be at least 1, got 0"),
        ("infonoise", {"gate": -1}, "gate must be at least 0, got -1"),
        ("infonoise", {"gate_power": 0}, "gate_power must be greater than 0, got 0"),
        ("infonoise", {"floor": "much"}, "floor must be a number, got 'much'"),
        ("infonoise", {"over_weight": 7}, "over_weight must be true or false, got 7"),
        ("infonoise", {"warmup": 1.1}, "warmup must be at most 1, got 1.1"),
        ("infonoise", {"every": 0}, "every must be at least 1, got 0"),
        ("infonoise", {"newness": 0}, "newness must be greater than 0, got 0"),
        ("edm2_uncertainty", {"lr": 0}, "lr must be greater than 0, got 0"),
        ("edm2_uncertainty", {"strength": 2}, "strength must be at most 1, got 2"),
        ("decl", {"clusters": 0}, "clusters must be at least 1, got 0"),
        ("decl", {"patience": 0}, "patience must be at least 1, got 0"),
        ("decl", {"floor": -1}, "floor must be at least 0, got -1"),
        ("gradient_variance", {"bins": 0}, "bins must be at least 1, got 0"),
        ("gradient_variance", {"every": 0}, "every must be at least 1, got 0"),
        ("gradient_variance", {"decay": -1}, "decay must be at least 0, got -1"),
        ("gradient_variance", {"floor": 3}, "floor must be at most 1, got 3"),
        ("decl", {"w": {"kind": "p3"}}, "w"),
    ],
)
def test_bad_parameters_are_refused_in_one_line(kind, parameters, message):
    with pytest.raises(UserError) as error:
        strategy(kind, **parameters)
    assert str(error.value).startswith(f"{kind}.{message}")
    assert "\n" not in str(error.value)
