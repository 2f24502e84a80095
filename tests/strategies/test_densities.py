"""The densities against sections 6, 7, 9 and 12 of the methods page (T = 1000)."""

import numpy as np
import pytest
import torch
from diffusers.training_utils import compute_density_for_timestep_sampling

from stepsearch.strategies import strategy
from stepsearch.strategies.densities.mode import ModeConfig

T = np.arange(1000)

# fmt: off
# section 6, discrete EDM: mean and std, p at STEPS (linear), argmax, mean t
STEPS = [0, 1, 10, 100, 219, 300, 500, 700, 999]
EDM = [
    (-1.2, 1.2, [3.754328e-3, 4.295491e-3, 7.052388e-3, 3.316834e-3, 1.344845e-3, 8.353265e-4,
                 2.322776e-4, 2.111854e-5, 9.366594e-8], 16, 133.21),
    (-0.4, 1.0, [3.060713e-5, 8.241416e-5, 8.173318e-4, 3.193356e-3, 2.224073e-3, 1.66293e-3,
                 5.739111e-4, 4.404567e-5, 2.465431e-8], 80, 218.43),
    (0, 1, [5.214539e-6, 1.654287e-5, 2.603333e-4, 2.252842e-3, 2.212489e-3, 1.963398e-3,
            1.019438e-3, 1.290259e-4, 2.165688e-7], 142, 278.80),
]
# kind and parameters, p at some t (linear), relative tolerance
ROWS = [
    # section 6, "Three different log-normals": SpeeD's repository
    ("speed_log_normal", {}, {0: 8.873e-9, 100: 5.579581e-4, 300: 3.094481e-3, 400: 3.018507e-3,
                              700: 2.972835e-6}, 2e-5),
    # section 7, logit-normal(0, 1) on t / T
    ("logit_normal", {}, {0: 2.5e-12, 100: 3.996531e-4, 200: 9.561768e-4, 300: 1.328187e-3,
                          500: 1.595767e-3, 700: 1.325361e-3}, 1e-2),
    # section 9, CLTS with sd = 200 and l = 0.5
    ("clts", {"mean": 0.3, "std": 0.2, "l": 0.5}, {0: 8.469414e-4, 300: 1.568655e-3,
                                                  700: 6.446267e-4, 999: 5.023789e-4}, 1e-6),
    # section 9, B-TTDM with a = 0.8
    ("beta", {"a": 0.8}, {0: 3.981072e-3, 1: 2.950377e-3, 10: 1.990176e-3, 100: 1.266652e-3,
                          300: 1.017469e-3, 500: 9.18775e-4, 999: 8.0008e-4}, 1e-6),
    # section 12, Laplace(0, 0.5)
    ("laplace", {}, {100: 2.753620e-4, 200: 3.272586e-3, 219: 4.838965e-3, 300: 4.258781e-3,
                     500: 7.810343e-5}, 1e-6),
]
# fmt: on


@pytest.mark.parametrize(("mean", "std", "values", "argmax", "average"), EDM)
def test_edm_log_normal_matches_table_6(mean, std, values, argmax, average, alpha_bar):
    p = strategy("edm_log_normal", mean=mean, std=std).density(alpha_bar())
    np.testing.assert_allclose(p[STEPS], values, rtol=5e-7)
    assert p.argmax() == argmax
    assert p @ T == pytest.approx(average, abs=0.005)


def test_edm_log_normal_has_its_median_and_deciles(alpha_bar):  # section 6
    cdf = np.cumsum(strategy("edm_log_normal").density(alpha_bar("linear", 4000)))
    sigma = (1 / alpha_bar("linear", 4000) - 1) ** 0.5
    found = np.interp([0.1, 0.5, 0.9], cdf, sigma)
    np.testing.assert_allclose(found, [0.06470855, 0.3011942, 1.401947], rtol=1e-2)


@pytest.mark.parametrize(("kind", "parameters", "values", "rtol"), ROWS)
def test_densities_match_their_rows(kind, parameters, values, rtol, alpha_bar):
    p = strategy(kind, **parameters).density(alpha_bar())
    rtol = {t: rtol if t == 0 else min(rtol, 2e-6) for t in values}
    for t, expected in values.items():
        assert p[t] == pytest.approx(expected, rel=max(rtol[t], 5e-7))


def test_what_else_the_rows_say(alpha_bar):
    abar = alpha_bar()
    log_normal = strategy("speed_log_normal").density(abar)  # section 6
    assert log_normal.argmax() == 348
    assert log_normal[700:].sum() == pytest.approx(5.4e-5, rel=0.01)
    middle = strategy("logit_normal").density(abar)  # section 7
    assert middle[:100].sum() == pytest.approx(0.014, abs=5e-4)
    assert middle[-100:].sum() == pytest.approx(0.014, abs=5e-4)
    assert strategy("beta").density(abar) @ T == pytest.approx(443.94, abs=0.005)  # section 9
    laplace = strategy("laplace").density(abar)  # section 12
    assert laplace.argmax() == 258
    assert laplace @ T == pytest.approx(261.15, abs=0.005)


@pytest.mark.parametrize(
    ("u", "level"), [(0.1, 0.804719), (0.25, 0.3465736), (0.75, -0.3465736), (0.9, -0.804719)]
)
def test_laplace_has_the_quantiles_of_section_12(u, level):
    """The page's u counts mass from the noiseless end, as timesteps do."""
    mass_above = 1 - strategy("laplace")._cdf(np.array([level]))
    assert mass_above == pytest.approx(u, abs=1e-6)


@pytest.mark.parametrize(("U", "f"), [(0, 1), (0.25, 0.6164161), (0.5, 0.5), (1, 0)])
def test_the_map_of_mode_matches_section_7(U, f):
    assert ModeConfig(scale=1.29).mapped(np.array(U)) == pytest.approx(f, abs=1e-7)


@pytest.mark.parametrize("kind", ["logit_normal", "mode"])
def test_sd3_densities_are_what_diffusers_draws(kind, alpha_bar):
    """Also the five draws of section 7, which are the first of seed 0."""
    draws = compute_density_for_timestep_sampling(
        kind, 200_000, 0.3, 0.8, 1.29, generator=torch.Generator().manual_seed(0)
    )
    parameters = {"mean": 0.3, "std": 0.8} if kind == "logit_normal" else {"scale": 1.29}
    p = strategy(kind, **parameters).density(alpha_bar("linear", 50))
    seen = np.bincount((draws * 50).long().numpy(), minlength=50)
    assert np.all(abs(seen - 200_000 * p) < 4.5 * np.sqrt(200_000 * p) + 4)


@pytest.mark.parametrize(
    ("kind", "parameters"),
    [("mode", {"scale": 0}), ("beta", {"a": 1, "b": 1}), ("clts", {"l": 0}), ("step", {"k": 1})],
)
def test_some_densities_hold_the_uniform_one(kind, parameters, alpha_bar):
    p = strategy(kind, **parameters).density(alpha_bar())
    np.testing.assert_allclose(p, 1e-3, rtol=1e-9)


def test_the_density_of_speed_is_that_of_step(alpha_bar):
    step = strategy("step", tau=600, k=3).density(alpha_bar())
    np.testing.assert_array_equal(strategy("speed", tau=600, k=3).density(alpha_bar()), step)


def test_a_timestep_bias_is_relative_to_the_rest(alpha_bar):  # section 7, SDXL
    p = strategy("timestep_bias", multiplier=3, begin=0.75, end=1).density(alpha_bar())
    np.testing.assert_allclose(p, np.where(T < 750, 1, 3) / 1500)


def test_densities_over_noise_levels_are_the_same_on_every_process(alpha_bar):
    """Mass below a signal level, on two schedules of different lengths."""
    for kind in ("edm_log_normal", "laplace"):
        for level in (0.2, 0.5, 0.9):
            here, there = alpha_bar("linear"), alpha_bar("cosine", 2000)
            p, q = strategy(kind).density(here), strategy(kind).density(there)
            assert p[here < level].sum() == pytest.approx(q[there < level].sum(), abs=0.01)


def test_a_table_is_spread_over_equal_shares_of_the_timesteps(alpha_bar):
    built = strategy("table", p=[3, 1], w=[0.5, 2, 2, 1]).build(alpha_bar("linear", 100))
    np.testing.assert_allclose(built.p, [0.015] * 50 + [0.005] * 50)
    np.testing.assert_array_equal(built.w, np.repeat([0.5, 2, 2, 1], 25))


def test_a_table_at_levels_has_a_weight_on_the_eps_loss(alpha_bar):
    abar = alpha_bar()
    table = strategy("table", alpha_bar=[0.99, 0.5, 0.01], w=[1, 2, 3])
    on_epsilon = table.weight(abar, "epsilon")
    assert np.all(np.diff(on_epsilon) >= 0)
    np.testing.assert_array_equal(on_epsilon[abar > 0.99], 1)
    np.testing.assert_allclose(table.weight(abar, "v_prediction"), on_epsilon * abar)
