"""The product of densities and weights, and its transforms (sections 2, 7 and 12)."""

import numpy as np
import pytest
import torch

from stepsearch.strategies import strategy
from stepsearch.strategies.compose import shifted
from stepsearch.strategies.draws import InverseCDF, lattice, lattice_uniform, pairs, uniform

LAPLACE, MIN_SNR = {"kind": "laplace"}, {"kind": "min_snr"}
UNIFORM = np.full(1000, 1e-3)


def test_a_product_has_the_density_of_one_and_the_weight_of_the_other(alpha_bar):
    both = strategy("compose", p=LAPLACE, w=MIN_SNR).build(alpha_bar(), "v_prediction")
    np.testing.assert_array_equal(both.p, strategy("laplace").density(alpha_bar()))
    expected = strategy("min_snr").weight(alpha_bar(), "v_prediction")
    np.testing.assert_array_equal(both.w, expected)


def test_speed_is_a_point_of_the_product(alpha_bar):
    product = strategy(
        "compose",
        p={"kind": "step", "tau": 600, "k": 3},
        w={"kind": "change_aware", "lam": 0.8},
        mirror=True,
    ).build(alpha_bar())
    speed = strategy("speed", tau=600, k=3, lam=0.8, mirror=True).build(alpha_bar())
    np.testing.assert_array_equal(product.p, speed.p)
    np.testing.assert_array_equal(product.w, speed.w)
    np.testing.assert_array_equal(product.marginal(32), speed.marginal(32))


def test_a_floor_of_1_and_a_power_of_0_are_uniform(alpha_bar):
    built = strategy("compose", p=LAPLACE, w=MIN_SNR, floor=1, power=0).build(alpha_bar())
    np.testing.assert_allclose(built.p, UNIFORM)
    np.testing.assert_array_equal(built.w, 1)


def test_a_floor_mixes_with_the_uniform_density(alpha_bar):
    p = strategy("laplace").density(alpha_bar())
    floored = strategy("compose", p=LAPLACE, floor=0.2).density(alpha_bar())
    np.testing.assert_allclose(floored, 0.8 * p + 0.2 / 1000)


def test_an_importance_corrected_density_leaves_the_objective_alone(alpha_bar):
    built = strategy("compose", p=LAPLACE, w=MIN_SNR, floor=0.01, importance_correct=True).build(
        alpha_bar()
    )
    expected = strategy("min_snr").weight(alpha_bar(), "epsilon") / 1000
    np.testing.assert_allclose(built.p * built.w, expected)


def test_an_importance_correction_leaves_out_what_is_never_drawn(alpha_bar):
    never = {"kind": "table", "p": [1, 0, 2, 3]}
    built = strategy("compose", p=never, importance_correct=True).build(alpha_bar())
    assert (built.p == 0).any()
    np.testing.assert_allclose(built.p * built.w, np.where(built.p > 0, 1e-3, 0))
    floored = strategy("compose", p=never, floor=0.01, importance_correct=True).build(alpha_bar())
    np.testing.assert_allclose(floored.p * floored.w, 1e-3)


def test_a_normalised_weight_has_mean_1_over_the_draws(alpha_bar):
    built = strategy("compose", p=LAPLACE, w=MIN_SNR, normalize=True).build(alpha_bar())
    assert built.p @ built.w == pytest.approx(1)


# section 7: with shift = 3 the noise levels 1, 0.75, 0.5, 0.25 become 1, 0.9, 0.75, 0.5
@pytest.mark.parametrize(("before", "after"), [(1, 1), (0.75, 0.9), (0.5, 0.75), (0.25, 0.5)])
def test_a_shift_of_3_moves_levels_as_in_section_7(before, after):
    mass = shifted(UNIFORM, 3)[: round(1000 * after)].sum()
    assert mass == pytest.approx(before, abs=1e-12)


def test_a_shift_by_the_inverse_comes_back(alpha_bar):
    p = strategy("logit_normal").density(alpha_bar())
    np.testing.assert_allclose(shifted(shifted(p, 3), 1 / 3), p, atol=2e-5)


def test_the_lattice_matches_section_2():
    u = lattice(0.3 + 1e-9, torch.arange(8) / 8)  # 0.3 and T u lie on the edges of timesteps
    t = InverseCDF(UNIFORM, stratify=False).at(u)
    assert t.tolist() == [300, 425, 550, 675, 800, 925, 50, 175]


@pytest.mark.parametrize("n", [1, 7, 64])
def test_a_lattice_batch_is_evenly_spread_and_in_no_order(n, generator):
    u = lattice_uniform(n, generator)
    gaps = torch.diff(torch.cat([u.sort().values, u.min().reshape(1) + 1]))
    torch.testing.assert_close(gaps, torch.full_like(gaps, 1 / n))
    assert n == 1 or not torch.equal(u, lattice_uniform(n, generator))


@pytest.mark.parametrize("n", [1, 2, 7])
def test_antithetic_uniforms_are_pairs(n, generator):
    u = pairs(uniform)(n, generator)
    assert u.shape == (n,)
    torch.testing.assert_close(u[: n // 2] + u[(n + 1) // 2 :], torch.ones(n // 2).double())


def test_antithetic_draws_of_a_uniform_density_are_t_and_its_mirror(alpha_bar, generator):
    """Section 2, DDIM: T - 1 - t."""
    t = strategy("compose", antithetic=True).build(alpha_bar()).draw(64, generator)
    assert torch.equal(t[32:], 999 - t[:32])
