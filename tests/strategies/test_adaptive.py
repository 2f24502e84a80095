"""Adaptive Non-uniform Timestep Sampling without a denoiser, against section 11."""

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from sklearn.feature_selection import SelectKBest, f_regression

from stepsearch.errors import UserError
from stepsearch.strategies import strategy
from stepsearch.strategies.adaptive import PAPER
from stepsearch.strategies.adaptive.policy import BetaPolicy, bounded, new_policy
from stepsearch.strategies.adaptive.selection import forward_selection, top_correlated
from stepsearch.strategies.adaptive.timestep_sampler import beta_table
from stepsearch.strategies.weights import VlbConfig


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


SIZES = [(3, 32, 32), (1, 8, 8), (4, 64, 64), (1, 28, 28), (3, 7, 5), (1, 1, 1)]


@pytest.mark.parametrize(("hidden", "count"), [(256, 684_098), (128, 372_290)])
def test_the_papers_policy_has_the_parameters_of_section_11_2(hidden, count):
    policy = BetaPolicy((3, 32, 32), (32, 64, 128), hidden)
    assert sum(p.numel() for p in policy.parameters()) == count


@pytest.mark.parametrize("shape", SIZES)
def test_a_new_policy_is_the_same_for_every_image_of_any_size(shape, generator):
    policy = new_policy(shape, (32, 64, 128), 256, generator)
    a, b = policy(torch.randn(5, *shape, generator=generator))
    np.testing.assert_allclose(a.detach(), 0.9740870, rtol=1e-6)
    np.testing.assert_allclose(b.detach(), 0.9740870, rtol=1e-6)
    entropy = torch.distributions.Beta(a, b).entropy()
    np.testing.assert_allclose(entropy.detach(), -2.4785e-4, rtol=2e-3)
    spread = torch.distributions.Beta(a, b).stddev
    np.testing.assert_allclose(spread.detach(), 0.2912, atol=1e-4)


def test_the_policys_weights_follow_from_the_generator_alone(generator):
    one, same = (
        new_policy((1, 8, 8), (8,), 4, torch.Generator().manual_seed(3)) for _ in range(2)
    )
    torch.rand(1)
    other = new_policy((1, 8, 8), (8,), 4, generator)
    first, second, third = (p.state_dict()["features.0.weight"] for p in (one, same, other))
    assert torch.equal(first, second)
    assert not torch.equal(first, third)


@pytest.mark.parametrize(("bias", "bound"), [(60.0, 50.0), (-5.0, 0.1)])
def test_the_entropy_brings_a_collapsed_policy_back(bias, bound, generator):
    policy = new_policy((1, 8, 8), (8,), 4, generator)
    torch.nn.init.constant_(policy.head[-1].bias, bias)
    x0 = torch.randn(5, 1, 8, 8, generator=generator)
    assert [set(x.tolist()) for x in policy(x0)] == [{np.float32(bound)}] * 2
    optimizer = torch.optim.Adam([policy.head[-1].bias], lr=1.0)
    for _ in range(30):
        optimizer.zero_grad()
        a, b = policy(x0)
        (-torch.distributions.Beta(a, b).entropy().mean()).backward()
        optimizer.step()
    for x in policy(x0):
        assert ((x > 0.1) & (x < 50)).all()


def test_a_policy_that_is_beyond_its_bounds_goes_no_further():
    for sign, passes in ((1, [0, 1, 1]), (-1, [-1, -1, 0])):
        x = torch.tensor([0.01, 3.0, 60.0], requires_grad=True)
        (sign * bounded(x)).sum().backward()
        assert x.grad.tolist() == passes


def test_the_bounds_change_no_bit_of_a_policy_inside_them(generator):
    policy = new_policy((1, 8, 8), (8,), 4, generator)
    torch.nn.init.normal_(policy.head[-1].weight, std=9.0, generator=generator)
    x0 = torch.randn(200, 1, 8, 8, generator=generator)
    free = torch.nn.functional.softplus(policy.head(policy.features(x0))) + 1e-5
    inside = (free > 0.1) & (free < 50)
    assert 0 < (~inside).sum() < inside.sum()
    assert torch.equal(torch.stack(policy(x0), 1)[inside], free[inside])


def test_the_first_density_matches_section_11_2(alpha_bar):
    p = strategy("adaptive", **PAPER).build(alpha_bar()).p
    np.testing.assert_allclose(
        p[[0, 1, 500, 999]], [5.939154e-4, 1.137845e-3, 9.849686e-4, 5.939154e-4], rtol=1e-6
    )


def test_the_bounds_coefficients_match_section_10(alpha_bar):
    at = [1, 10, 100, 300, 500, 700, 999]
    linear = [0.2726921, 0.06822399, 0.00999623, 0.00504392, 0.005509735, 0.007171247, 0.01020449]
    c = VlbConfig().weight(alpha_bar(), "epsilon")
    np.testing.assert_allclose(c[at], linear, rtol=1e-6)
    cosine = VlbConfig().weight(alpha_bar("cosine"), "epsilon")
    np.testing.assert_allclose(cosine[at[:-1]], [
        0.2639083, 0.06232139, 0.009361389, 0.003794511, 0.003117578, 0.003887152,
    ], rtol=1e-6)  # fmt: skip
    assert cosine[999] == 1  # 499.5 would be all of the reward


def test_a_reward_is_the_same_whatever_the_denoiser_predicts(alpha_bar):  # section 11.6
    abar = alpha_bar("cosine")
    snr = abar / (1 - abar)
    x0_error = np.linspace(1, 2, 1000)
    rewards = [
        VlbConfig().weight(abar, target) * x0_error * factor
        for target, factor in {"epsilon": snr, "v_prediction": snr + 1, "sample": 1}.items()
    ]
    np.testing.assert_allclose(rewards[1], rewards[0])
    np.testing.assert_allclose(rewards[2], rewards[0])


def test_the_bound_stays_finite_at_snr_0(alpha_bar):
    dark = alpha_bar().copy()
    dark[-1] = 0
    for target in ("epsilon", "v_prediction", "sample"):
        assert np.isfinite(VlbConfig().weight(dark, target)).all()


# --- draws


def trained(config, alpha_bar, generator, shape=(1, 8, 8)):
    """A strategy whose policy prefers other timesteps for bright images than for dark ones."""
    built = config.build(alpha_bar)
    built.begin(shape, generator)
    head = built._policy.head[-1]
    torch.nn.init.normal_(head.weight, std=6.0, generator=generator)
    torch.nn.init.constant_(head.bias, 1.0)
    return built


@pytest.mark.parametrize("n", [1, 3, 64])
@pytest.mark.parametrize("timesteps", [50, 1000, 1500])
def test_draws_for_images_are_integers_in_range(n, timesteps, alpha_bar, generator):
    built = trained(strategy("adaptive"), alpha_bar("linear", timesteps), generator)
    for _ in range(20):
        t = built.draw_for(torch.randn(n, 1, 8, 8, generator=generator), generator)
        assert t.shape == (n,)
        assert t.dtype == torch.int64
        assert 0 <= t.min() <= t.max() < timesteps


@pytest.mark.parametrize("stratify", [True, False])
@pytest.mark.parametrize("floor", [0.0, 0.3])
def test_draws_follow_the_mean_density_of_their_images(stratify, floor, alpha_bar, generator):
    config = strategy("adaptive", floor=floor, stratify=stratify)
    built = trained(config, alpha_bar("linear", 200), generator)
    x0 = torch.randn(200, 1, 8, 8, generator=generator)
    draws = torch.cat([built.draw_for(x0, generator) for _ in range(100)])
    seen = np.bincount(draws, minlength=200).reshape(50, -1).sum(1)
    expected = built.p.reshape(50, -1).sum(1) * len(draws)
    assert abs(built.p - 1 / 200).max() > 1e-3
    assert chisquare(seen, expected).statistic < 99  # 49 degrees of freedom, p = 3e-5


def test_the_policy_looks_at_the_image(alpha_bar, generator):
    built = trained(strategy("adaptive", floor=0), alpha_bar(), generator)
    means = []
    for brightness in (-40.0, 40.0):
        x0 = torch.full((2000, 1, 8, 8), brightness)
        t = built.draw_for(x0, generator)
        a, b = built.state_dict()["last"][0].double()
        assert t.double().mean() / 999 == pytest.approx(float(a / (a + b)), abs=0.01)
        means.append(float(a / (a + b)))
    assert abs(means[0] - means[1]) > 1e-3


def test_a_floor_of_1_is_uniform(alpha_bar, generator):
    built = trained(strategy("adaptive", floor=1), alpha_bar("linear", 100), generator)
    t = built.draw_for(torch.randn(1000, 1, 8, 8, generator=generator), generator)
    assert np.bincount(t, minlength=100).tolist() == [10] * 100  # stratified
    np.testing.assert_allclose(built.p, 0.01)


def test_the_density_of_a_batch_is_the_mean_over_its_images():
    a, b = np.array([1.0, 2.0]), np.array([3.0, 0.5])
    parts = [beta_table(a[i : i + 1], b[i : i + 1], 100, 0.0) for i in range(2)]
    np.testing.assert_allclose(beta_table(a, b, 100, 0.2), 0.8 * (parts[0] + parts[1]) / 2 + 0.002)


# --- selection of timesteps


def rows_of(columns, generator, rows=20):
    """A queue whose timesteps move in three independent groups of neighbours."""
    causes = torch.randn(rows, 3, generator=generator)
    scale = torch.tensor([3.0, 2.0, 1.0])
    group = torch.arange(columns) * 3 // columns
    noise = 0.01 * torch.randn(rows, columns, generator=generator)
    return (causes * scale)[:, group] + noise, group


def test_the_papers_selection_is_select_k_best(generator):
    rows, _ = rows_of(30, generator)
    best = SelectKBest(f_regression, k=3).fit(rows.numpy(), rows.sum(1).numpy())
    expected = np.flatnonzero(best.get_support())
    assert sorted(top_correlated(rows, 3).tolist()) == expected.tolist()


def test_forward_selection_takes_one_timestep_of_each_group_not_three_neighbours(generator):
    rows, group = rows_of(30, generator)
    assert group[forward_selection(rows, 3)].unique().tolist() == [0, 1, 2]
    assert len(group[top_correlated(rows, 3)].unique()) == 1  # defect 2 of section 11.4


@pytest.mark.parametrize("select", [forward_selection, top_correlated])
def test_selection_takes_rows_without_differences(select):
    chosen = select(torch.zeros(6, 10), 3)
    assert len(chosen.unique()) == 3
    assert len(select(torch.ones(6, 2), 3)) == 2  # there are no more


# --- the overhead arithmetic of section 11.7


def overhead(batch, *, backward=3.0, policy=1.0, grid=1000, every=40, selected=3, images=1.0):
    """Cost of a step over that of a plain one, in forwards f of the denoiser at batch size B."""
    evaluation = 2 * selected * images + 2 * grid / batch
    plain = 1 + backward
    learning = (evaluation + (1 + backward) * policy) / every
    return (plain + policy + learning) / plain


def test_the_papers_arithmetic_of_its_overhead_and_what_our_recipe_makes_of_it():
    assert overhead(128) == pytest.approx(1.410, abs=5e-4)
    assert overhead(24) == pytest.approx(1.833, abs=5e-4)
    assert overhead(256) == pytest.approx(1.361, abs=5e-4)
    assert overhead(128, backward=2) == pytest.approx(1.539, abs=3e-3)
    assert overhead(128, policy=0.01) == pytest.approx(1.138, abs=5e-4)
    assert overhead(128, backward=2, policy=0.01) == pytest.approx(1.184, abs=5e-4)
    config = strategy("adaptive")
    ours = overhead(
        128, policy=0.01, grid=config.grid, images=config.probed_images / 128, every=config.every
    )
    assert ours == pytest.approx(1.017, abs=5e-4)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"lr": 0}, "lr must be greater than 0, got 0"),
        ({"entropy": -1}, "entropy must be at least 0, got -1"),
        ({"every": 0}, "every must be at least 1, got 0"),
        ({"queue": 4}, "queue must be at least 5, got 4"),
        ({"selected": 0}, "selected must be at least 1, got 0"),
        ({"grid": 0}, "grid must be at least 1, got 0"),
        ({"probed_images": 0}, "probed_images must be at least 1, got 0"),
        ({"selection": "lasso"}, "selection must be one of 'forward' or 'top', got 'lasso'"),
        ({"baseline": 5}, "baseline must be true or false, got 5"),
        ({"floor": 1.1}, "floor must be at most 1, got 1.1"),
        ({"channels": []}, "channels"),
        ({"channels": [0]}, "channels"),
        ({"hidden": 0}, "hidden must be at least 1, got 0"),
        ({"f_s": 40}, "f_s is not a known key"),
    ],
)
def test_bad_parameters_are_refused_in_one_line(parameters, message):
    with pytest.raises(UserError) as error:
        strategy("adaptive", **parameters)
    assert str(error.value).startswith(f"adaptive.{message}")
    assert "\n" not in str(error.value)


def test_a_state_of_another_policy_is_refused(alpha_bar, generator):
    built = trained(strategy("adaptive"), alpha_bar(), generator)
    with pytest.raises(UserError, match=r"^adaptive must have a state of .* to load, got \['p'\]"):
        built.load_state_dict({"p": torch.ones(3)})


def test_drawing_for_images_before_the_beginning_is_refused(alpha_bar, generator):
    with pytest.raises(ValueError, match="begin must come before"):
        strategy("adaptive").build(alpha_bar()).draw_for(torch.zeros(2, 1, 8, 8), generator)
