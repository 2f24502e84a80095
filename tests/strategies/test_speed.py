"""SpeeD against section 3 of the methods page (values of the official functions)."""

import numpy as np
import pytest
import torch

from stepsearch.errors import UserError
from stepsearch.strategies import strategy
from stepsearch.strategies.mirror import meaningful_steps

# fmt: off
# section 3.1, table of r: first 0-based index with abar <= 1/r (linear, T = 1000)
TAU_OF_R = {
    2: 259, 5: 396, 7.2: 440, 10: 475, 20: 542, 50: 620, 100: 673, 143.6: 700, 500: 783, 1000: 825,
}
# section 3.4: w for lam at STEPS (linear, T = 1000, tau = 700); None where the page has no value
STEPS = [0, 1, 100, 219, 300, 400, 500, 641, 699]
BELOW_TAU = {
    0.6: [0.40878596, 0.40952010, 0.53890310, 0.6, 0.57739645,
          0.51577362, 0.45803178, 0.41455658, 0.40720333],
    0.8: [0.2263579, 0.2285603, 0.6167093, 0.8, 0.7321894,
          0.5473209, None, 0.2436697, 0.2216100],
    1.0: [0.04392978, 0.04760051, 0.6945155, 1, 0.8869823,
          0.5788681, None, 0.07278291, 0.03601663],
    0.5: [0.5] * 9,
}
# fmt: on


@pytest.mark.parametrize(("r", "tau"), TAU_OF_R.items())
def test_boundary_of_a_magnitude_matches_table_3_1(r, tau, alpha_bar):
    assert strategy("speed", r=r).boundary(alpha_bar()) == tau


# section 3.1: same abar as linear's tau = 700, and r = 10; the page rounds these to the nearest
# index or counts from 1, hence the tolerance of one step
@pytest.mark.parametrize(
    ("schedule", "same_level", "r_10"),
    [
        ("linear", 700, 476),
        ("quad", 875, 661),
        ("cosine", 947, 794),
        ("scaled_linear", 966, 675),
    ],
)
def test_a_level_carries_tau_to_another_process(schedule, same_level, r_10, alpha_bar):
    by_level = strategy("speed", abar=float(alpha_bar()[700]))
    assert by_level.boundary(alpha_bar(schedule)) == pytest.approx(same_level, abs=1)
    assert strategy("speed", r=10).boundary(alpha_bar(schedule)) == pytest.approx(r_10, abs=1)


@pytest.mark.parametrize("schedule", ["linear", "quad", "cosine", "scaled_linear"])
def test_the_boundary_is_the_first_step_at_or_below_the_level(schedule, alpha_bar):
    levels = alpha_bar(schedule)
    for config in (strategy("speed", r=20), strategy("speed", abar=0.05)):
        tau = config.boundary(levels)
        assert levels[tau] <= 0.05 < levels[tau - 1]


@pytest.mark.parametrize(("timesteps", "tau"), [(1000, 700), (500, 350), (50, 35)])
def test_the_default_boundary_is_the_papers_share_of_T(timesteps, tau, alpha_bar):
    assert strategy("speed").boundary(alpha_bar("linear", timesteps)) == tau


# section 3.2: k, tau, p below tau, p from tau on, mass from tau on
@pytest.mark.parametrize(
    ("k", "tau", "low", "high", "mass"),
    [
        (1, 700, 1e-3, 1e-3, 0.3),
        (2, 700, 1.176471e-3, 5.882353e-4, 0.17647),
        (5, 700, 1.3157895e-3, 2.6315788e-4, 0.078947),
        (10, 700, 1.369863e-3, 1.369863e-4, 0.04110),
        (25, 700, 1.404494e-3, 5.617978e-5, 0.01685),
        (5, 440, 1.811594e-3, 3.623188e-4, 0.2029),
        (5, 500, 1.666667e-3, 3.333333e-4, 0.16667),
        (5, 600, 1.470588e-3, 2.941176e-4, 0.11765),
        (5, 800, 1.190476e-3, 2.380952e-4, 0.04762),
    ],
)
def test_density_matches_table_3_2(k, tau, low, high, mass, alpha_bar):
    p = strategy("speed", k=k, tau=tau).density(alpha_bar())
    np.testing.assert_allclose(p[[0, 1, 100, 400, tau - 1]], low, rtol=1e-6)
    np.testing.assert_allclose(p[[tau, 999]], high, rtol=1e-6)
    assert p[tau:].sum() == pytest.approx(mass, abs=6e-6 if k != 5 or tau != 440 else 6e-5)


# section 3.3: m = meaningful_steps
@pytest.mark.parametrize(
    ("schedule", "timesteps", "m"),
    [
        ("linear", 1000, 642),
        ("quad", 1000, 829),
        ("cosine", 1000, 959),
        ("const", 1000, 229),
        ("linear", 100, 80),
        ("linear", 250, 187),
        ("linear", 500, 349),
        ("linear", 2000, 1157),
        ("linear", 4000, 2016),
    ],
)
def test_mirror_point_matches_section_3_3(schedule, timesteps, m, alpha_bar):
    assert meaningful_steps(alpha_bar(schedule, timesteps)) == m


# no step is meaningless (the released code would take m = 1), or only the very last one is
@pytest.mark.parametrize(
    ("schedule", "timesteps"), [("cosine", 50), ("scaled_linear", 100), ("quad", 50)]
)
def test_mirror_is_refused_where_no_step_is_meaningless(schedule, timesteps, alpha_bar):
    with pytest.raises(UserError, match=r"speed\.mirror must be false .*T = "):
        strategy("speed", mirror=True).build(alpha_bar(schedule, timesteps))


# section 3.3: n, then q x 3800 at t = 0, 1..57, 58..357, 358..642, 643..699, 700..999, and mass
MIRRORED = [
    (1, 5, 5, 5, 5, 5, 1, 0.078947),
    (2, 5, 5, 5, 5, 5, 1, 0.078947),
    (3, 5, 20 / 3, 16 / 3, 5, 10 / 3, 2 / 3, 0.052632),
    (4, 5, 6.25, 5.25, 5, 3.75, 0.75, 0.059211),
    (16, 5, 7.1875, 5.4375, 5, 2.8125, 0.5625, 0.044408),
    (32, 5, 7.34375, 5.46875, 5, 2.65625, 0.53125, 0.041941),
    (256, 5, 7.48047, 5.49609, 5, 2.51953, 0.503906, 0.039782),
]
AREAS = [(0, 0), (1, 57), (58, 357), (358, 642), (643, 699), (700, 999)]


@pytest.mark.parametrize("row", MIRRORED, ids=lambda row: f"n={row[0]}")
def test_mirrored_marginal_matches_table_3_3(row, alpha_bar):
    n, *levels, mass = row
    q = strategy("speed", k=5, tau=700, mirror=True).build(alpha_bar()).marginal(n)
    for (first, last), level in zip(AREAS, levels, strict=True):
        np.testing.assert_allclose(3800 * q[first : last + 1], level, rtol=1e-5)
    assert q[700:].sum() == pytest.approx(mass, abs=6e-7)


def test_mirrored_marginal_is_the_closed_form_of_3_3(alpha_bar):
    built = strategy("speed", k=3, tau=550, mirror=True).build(alpha_bar("quad"))
    n, a, m, T, P = 11, 6, 829, 1000, built.p
    d = [(P[m - t] if 1 <= t <= m else 0) + (P[t + m] if t <= T - 1 - m else 0) for t in range(T)]
    np.testing.assert_allclose(built.marginal(n), (a * P + (n - a) * np.array(d)) / n)


@pytest.mark.parametrize(("n", "direct"), [(1, 1), (2, 2), (3, 2), (4, 3), (7, 4), (256, 129)])
def test_a_batch_has_half_plus_one_direct_draws_and_mirrors_of_the_first(n, direct, alpha_bar):
    config = strategy("speed", mirror=True)
    mirrored = config.build(alpha_bar()).draw(n, torch.Generator().manual_seed(3))
    plain = config.model_copy(update={"mirror": False}).build(alpha_bar())
    t = plain.draw(n // 2 + 1, torch.Generator().manual_seed(3))
    assert torch.equal(mirrored[:direct], t)
    below, above = 642 - t, t - 642
    dual = torch.where(t < 642, below, above)
    assert torch.equal(mirrored[direct:], dual[: n - direct])


def test_mirrored_draws_match_the_official_masses_of_3_3(alpha_bar, generator):
    built = strategy("speed", mirror=True).build(alpha_bar())
    draws = torch.cat([built.draw(256, generator) for _ in range(400)])
    assert (draws >= 700).double().mean() == pytest.approx(0.0398, abs=0.002)


# section 3.4: lam, convergence_weight, w[700], w[999]
@pytest.mark.parametrize(
    ("lam", "convergence_weight", "at_tau", "last"),
    [
        (0.6, "released", 1, 1),
        (0.6, "formula", 0.4071115, 0.4),
        (0.8, "released", 1, 1),
        (0.8, "formula", 0.2213346, 0.2),  # the repo's `theory`
        (1.0, "released", 1, 1),
        (0.5, "released", 1, 1),
        (0.5, "formula", 0.5, 0.5),
    ],
)
def test_weights_match_table_3_4(lam, convergence_weight, at_tau, last, alpha_bar):
    config = strategy("speed", tau=700, lam=lam, convergence_weight=convergence_weight)
    w = config.weight(alpha_bar(), "epsilon")
    for t, expected in zip(STEPS, BELOW_TAU[lam], strict=True):
        assert expected is None or w[t] == pytest.approx(expected, abs=6e-8)
    assert w[700] == pytest.approx(at_tau, abs=6e-8)
    assert w[999] == pytest.approx(last, abs=6e-8)


# section 3.4: argmax of the weights, and w at t = 0, 100, 699 for lam = 0.6
@pytest.mark.parametrize(
    ("schedule", "argmax", "values"),
    [
        ("linear", 219, (0.40878596, 0.53890310, 0.40720333)),
        ("quad", 411, (0.40834572, 0.44843974, 0.46574287)),
        ("cosine", 495, (0.40561819, 0.46643591, 0.56085862)),
    ],
)
def test_weights_on_other_processes_match_section_3_4(schedule, argmax, values, alpha_bar):
    w = strategy("speed", lam=0.6).weight(alpha_bar(schedule), "epsilon")
    assert w.argmax() == argmax
    np.testing.assert_allclose(w[[0, 100, 699]], values, atol=6e-9)


def test_mean_weights_match_section_3_4(alpha_bar):
    w = strategy("speed", lam=0.6, convergence_weight="released").weight(alpha_bar(), "epsilon")
    assert w.mean() == pytest.approx(0.653, abs=5e-4)
    assert w[:700].mean() == pytest.approx(0.5046, abs=5e-5)


def test_effective_density_matches_section_3_4(alpha_bar):
    config = strategy("speed", mirror=True, convergence_weight="released")
    built = config.build(alpha_bar())
    n = 1_000_000  # "n large"
    effective = 1000 * built.marginal(n) * built.w
    expected = {1: 0.808, 57: 0.964, 100: 0.780, 219: 0.868, 357: 0.787, 500: 0.603}
    expected |= {642: 0.545, 643: 0.273, 699: 0.268, 700: 0.1316, 999: 0.1316}
    np.testing.assert_allclose(effective[list(expected)], list(expected.values()), atol=6e-4)
    assert effective.sum() / 1000 == pytest.approx(0.5282, abs=5e-5)
    assert effective[700:].sum() / effective.sum() == pytest.approx(0.075, abs=5e-4)


def test_no_weight_is_negative_at_any_legal_lam(alpha_bar):  # section 0, fact 4
    for lam in np.linspace(0.5, 1, 11):
        w = strategy("speed", lam=lam).weight(alpha_bar(), "epsilon")
        assert 1 - lam - 1e-12 <= w.min() <= w.max() <= lam + 1e-12


def test_weights_are_converted_to_other_targets_by_section_1(alpha_bar):
    config, abar = strategy("speed", convergence_weight="released"), alpha_bar()
    snr = abar / (1 - abar)
    w = config.weight(abar, "epsilon")
    np.testing.assert_allclose(config.weight(abar, "v_prediction"), w * snr / (snr + 1))
    np.testing.assert_allclose(config.weight(abar, "sample"), w * snr)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"tau": 0}, "speed.tau must be at least 1, got 0"),
        ({"tau": 1200}, "speed.tau must be in 1..1000 (T), got 1200"),
        ({"tau": 700.5}, "speed.tau must be an integer, got 700.5"),
        ({"r": 1}, "speed.r must be greater than 1, got 1"),
        ({"r": 1e6}, "speed.r must be in 1.0001..24778 (1 / alpha_bar), got 1000000.0"),
        ({"r": 1.00005}, "speed.r must be in 1.0001..24778 (1 / alpha_bar), got 1.00005"),
        ({"r": "inf"}, "speed.r must be a finite number, got 'inf'"),
        ({"abar": 0}, "speed.abar must be greater than 0, got 0"),
        ({"abar": 1}, "speed.abar must be less than 1, got 1"),
        ({"abar": 1e-9}, "speed.abar must be in 4.0358e-05..0.9999 (alpha_bar), got 1e-09"),
        ({"tau": 700, "r": 10}, "speed must have one of tau, r, abar, got tau and r"),
        ({"r": 10, "abar": 0.1}, "speed must have one of tau, r, abar, got r and abar"),
        ({"k": 0.5}, "speed.k must be at least 1, got 0.5"),
        ({"k": float("nan")}, "speed.k must be a finite number, got nan"),
        ({"k": "five"}, "speed.k must be a number, got 'five'"),
        ({"k": 1e308}, "strategy must give finite p and w on this process, got SpeedConfig("),
        ({"lam": 5}, "speed.lam must be at most 1, got 5"),
        ({"lam": 0.4}, "speed.lam must be at least 0.5, got 0.4"),
        ({"lam": None}, "speed.lam must be a number, got None"),
        ({"mirror": "often"}, "speed.mirror must be true or false, got 'often'"),
        ({"stratify": 3}, "speed.stratify must be true or false, got 3"),
        (
            {"convergence_weight": 1.0},
            "speed.convergence_weight must be one of 'formula' or 'released', got 1.0",
        ),
        ({"lambda": 0.6}, "speed.lambda is not a known key; did you mean 'lam'?"),
    ],
)
def test_bad_parameters_are_refused_in_one_line(parameters, message, alpha_bar):
    with pytest.raises(UserError) as error:
        strategy("speed", **parameters).build(alpha_bar())
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


def test_the_released_variant_is_speed_with_its_mirror_and_its_override(alpha_bar):
    released = strategy("speed_released").build(alpha_bar())
    options = {"mirror": True, "convergence_weight": "released"}
    same = strategy("speed", **options).build(alpha_bar())
    np.testing.assert_array_equal(released.marginal(256), same.marginal(256))
    np.testing.assert_array_equal(released.w, same.w)
    assert (released.w[699], released.w[700]) == (pytest.approx(0.4072, abs=5e-5), 1)  # section 0
    assert released.marginal(256)[700:].sum() == pytest.approx(0.0398, abs=5e-5)
    assert released.marginal(4)[700:].sum() == pytest.approx(0.0592, abs=5e-5)


def test_the_first_version_matches_section_3_5(alpha_bar):
    built = strategy("speed_v1").build(alpha_bar())
    expected = {0: 1.402364e-3, 100: 1.402364e-3, 500: 1.402364e-3, 640: 1.264177e-3}
    expected |= {641: 7.454379e-4, 642: 3.557755e-4, 643: 2.887988e-4}
    expected |= {700: 2.804729e-4, 999: 2.804729e-4}
    np.testing.assert_allclose(built.p[list(expected)], list(expected.values()), rtol=1e-6)
    np.testing.assert_allclose(built.w, 1 - alpha_bar())
    assert built.m == 642
