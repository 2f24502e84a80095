"""Algorithms 1 and 2 on the digits, against the bands of B11, and where they have no answer."""

import itertools

import numpy as np
import pytest
import torch

from stepsearch.diffusion.stages import Points, StagesConfig, find_stages, latents, pixels
from stepsearch.diffusion.stages.algorithms import any_stages, running_means, three_stages
from stepsearch.diffusion.stages.kernels import KERNELS, T_MIN
from stepsearch.diffusion.stages.optimal import OptimalDenoiser
from stepsearch.diffusion.stages.similarity import (
    NODES,
    EndSimilarity,
    GridSimilarity,
    end_similarity,
    grid_similarity,
)
from stepsearch.errors import UserError

ETA = 2 / 256


def silent(share: float) -> None:
    pass


@pytest.fixture(scope="module")
def ends(digits: Points) -> EndSimilarity:
    return end_similarity(OptimalDenoiser(digits), 20_000, ETA, 0, silent)


@pytest.fixture(scope="module")
def grid(digits: Points) -> GridSimilarity:
    return grid_similarity(OptimalDenoiser(digits), 200, ETA, 0, silent)


def boundaries(ends: EndSimilarity, alpha: float = 0.9) -> tuple[float, float]:
    first, third = three_stages(running_means(ends), alpha)
    assert first.holds
    assert third.holds
    return first.tau, third.tau


# --- Algorithm 1 --------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_algorithm_1_lies_in_the_bands_on_every_seed(digits: Points, seed: int) -> None:
    ends = end_similarity(OptimalDenoiser(digits), 5000, ETA, seed, silent)
    assert boundaries(ends) == pytest.approx((0.095, 0.441), abs=0.010)
    assert boundaries(ends)[0] == pytest.approx(0.095, abs=0.006)


def test_a_larger_alpha_leaves_narrower_outer_stages(ends: EndSimilarity) -> None:
    found = [boundaries(ends, alpha) for alpha in (0.8, 0.9, 0.95, 0.99)]
    reference = [(0.129, 0.315), (0.095, 0.441), (0.0777, 0.5065), (0.0555, 0.5822)]
    for ours, theirs in zip(found, reference, strict=True):
        assert ours == pytest.approx(theirs, abs=0.008)
    assert all(a[0] > b[0] and a[1] < b[1] for a, b in itertools.pairwise(found))


@pytest.mark.parametrize(
    ("eta", "reference"), [(1 / 256, (0.190, 0.578)), (2 / 256, (0.199, 0.512))]
)
def test_pixels_from_minus_one_to_one_move_both(
    digits: Points, eta: float, reference: tuple[float, float]
) -> None:
    """eta is a share of the range 2: 2/256 and 4/256 as they were measured."""
    denoiser = OptimalDenoiser(pixels(digits.rows, signed=True))
    assert boundaries(end_similarity(denoiser, 5000, eta, 0, silent)) == pytest.approx(
        reference, abs=0.010
    )


def test_similarities_are_shares_and_reach_one_at_their_ends(ends: EndSimilarity) -> None:
    assert np.all(np.diff(ends.t) >= 0)
    for values in (ends.to_data, ends.to_noise):
        assert values.min() >= 0
        assert values.max() <= 1
    assert ends.to_data[ends.t < 0.02].min() == 1
    assert ends.to_noise[ends.t > 0.95].min() == 1


def falling(*, data: float, noise: float) -> EndSimilarity:
    """Similarities that fall linearly from 1 at their ends with these slopes, to 0 at most."""
    t = np.linspace(0.001, 1, 4001)
    return EndSimilarity(t, np.maximum(0, 1 - data * t), np.maximum(0, 1 - noise * (1 - t)))


def test_a_linear_fall_has_its_known_crossing() -> None:
    """The mean of 1 - s t over [0, tau] is 1 - s tau / 2: alpha at tau = 2 (1 - alpha) / s."""
    first, third = boundaries(falling(data=1.0, noise=0.5))
    assert first == pytest.approx(0.2, abs=2e-3)
    assert third == pytest.approx(0.6, abs=2e-3)


def test_the_first_stage_ends_at_the_first_fall_though_the_mean_rises_again() -> None:
    t = np.linspace(0.001, 1, 4001)
    dip = np.where((t > 0.1) & (t < 0.15), 0.0, 1.0)
    means = running_means(EndSimilarity(t, dip, np.ones_like(t)))
    first, _ = three_stages(means, 0.9)
    assert first.tau == pytest.approx(0.1 / 0.9, abs=2e-3)
    assert first.farthest == 1


def test_where_no_time_satisfies_alpha_the_end_is_taken() -> None:
    t = np.linspace(0.001, 1, 1000)
    half = np.full_like(t, 0.5)
    first, third = three_stages(running_means(EndSimilarity(t, half, half)), 0.9)
    assert (first.tau, first.holds) == (0, False)
    assert (third.tau, third.holds) == (1, False)


# --- Algorithm 2 --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n", "cuts"),
    [(2, (0.476,)), (3, (0.276, 0.626)), (4, (0.226, 0.476, 0.726)),
     (5, (0.176, 0.376, 0.576, 0.776))],
)  # fmt: skip
def test_algorithm_2_has_the_reference_cuts(
    grid: GridSimilarity, n: int, cuts: tuple[float, ...]
) -> None:
    assert any_stages(grid.similarity, n) == pytest.approx(cuts)


def test_algorithm_2_is_the_best_of_all_ways(grid: GridSimilarity) -> None:
    def total(ways: tuple[int, ...]) -> float:
        blocks = itertools.pairwise((0, *ways, 21))
        return float(sum((1 - grid.similarity)[i:j, i:j].sum() for i, j in blocks))

    best = min(itertools.combinations(range(1, 21), 3), key=total)
    assert any_stages(grid.similarity, 4) == pytest.approx(
        [NODES[cut - 1] + 0.025 for cut in best]
    )


def test_the_grid_is_symmetric_with_ones_on_its_diagonal(grid: GridSimilarity) -> None:
    np.testing.assert_array_equal(grid.similarity, grid.similarity.T)
    np.testing.assert_array_equal(np.diag(grid.similarity), 1)
    assert np.all((grid.similarity >= 0) & (grid.similarity <= 1))
    assert np.all(grid.change > 0)


# --- the readings that are not taken ------------------------------------------------------------


def test_other_readings_of_the_similarity_have_other_boundaries(digits: Points) -> None:
    """B11: eps at t = 1 of its own x, as equation 7 has it, and E in the place of eps."""
    denoiser, random = OptimalDenoiser(digits), np.random.default_rng(0)
    t = np.sort(random.uniform(T_MIN, 1, 5000))
    y = denoiser.at(random.integers(len(denoiser), size=5000))
    noise = torch.from_numpy(random.standard_normal(y.shape, dtype=np.float32))
    sigma = torch.from_numpy(KERNELS["vp"].sigma(np.stack([t, np.ones(5000)], axis=1))).float()
    means = denoiser.posterior_mean(y, noise, sigma)
    error = (y[:, None] - means) / sigma[..., None]

    def within(difference: torch.Tensor) -> np.ndarray:
        return (difference.abs() <= ETA).double().mean(1).numpy()

    literal = EndSimilarity(t, within(error[:, 0]), within(error[:, 0] - error[:, 1]))
    assert boundaries(literal)[1] == pytest.approx(0.792, abs=0.010)
    by_x0 = EndSimilarity(t, within(y - means[:, 0]), within(means[:, 0] - means[:, 1]))
    assert boundaries(by_x0) == pytest.approx((0.107, 0.705), abs=0.010)


# --- as on photographs ---------------------------------------------------------------------------


def photograph_like(count: int) -> torch.Tensor:
    """Noise with an amplitude of f^-1.65, channels that correlate by 0.9, CIFAR-10's mean and
    deviation; uint8 [count, 3, 32, 32]."""
    generator = torch.Generator().manual_seed(0)
    frequency = torch.fft.fftfreq(32)
    radius = (frequency[:, None].square() + frequency.square()).sqrt()
    radius[0, 0] = 1 / 32
    grey, own = (torch.randn(count, c, 32, 32, generator=generator) for c in (1, 3))
    white = torch.fft.fft2(0.9**0.5 * grey + 0.1**0.5 * own)
    images = torch.fft.ifft2(white * radius**-1.65).real
    return (images / images.std() * 0.251 + 0.473).mul_(255).round_().clamp_(0, 255).byte()


def test_synthetic_photographs_are_cut_near_the_cuts_of_table_9() -> None:
    """B4 is of CIFAR-10 itself, which is in no package. Of noise with its spectrum the cuts for
    two, four and five stages lie within one of the 21 cells; for three they do not."""
    denoiser = OptimalDenoiser(pixels(photograph_like(5000)))
    grid = grid_similarity(denoiser, 200, ETA, 0, silent)
    table_9 = [(0.476,), (0.376, 0.526, 0.726), (0.376, 0.476, 0.626, 0.776)]
    for cuts in table_9:
        assert any_stages(grid.similarity, len(cuts) + 1) == pytest.approx(cuts, abs=0.051)


# --- both ---------------------------------------------------------------------------------------


def test_a_seed_gives_the_same_boundaries_and_the_memory_moves_them_by_rounding(
    digits: Points,
) -> None:
    config = StagesConfig(samples=1000, seed=3)
    one, same = find_stages(digits, config), find_stages(digits, config)
    assert one.boundaries == same.boundaries
    np.testing.assert_array_equal(one.ends.to_data, same.ends.to_data)
    other = find_stages(digits, config.model_copy(update={"seed": 4}))
    assert other.boundaries != one.boundaries
    little = find_stages(digits, config.model_copy(update={"memory": 1}))
    np.testing.assert_array_equal(little.ends.t, one.ends.t)
    assert little.boundaries == pytest.approx(one.boundaries, abs=1e-3)
    for name, boundaries_ in one.others.items():
        assert little.others[name] == pytest.approx(boundaries_, abs=1e-3)


@pytest.mark.parametrize("n", [2, 3, 4, 5])
def test_every_method_gives_boundaries_in_order(digits: Points, n: int) -> None:
    shares: list[float] = []
    config = StagesConfig(n=n, samples=2000)
    found = find_stages(digits, config, gradients=np.eye(100), progress=shares.append)
    for each in (found.boundaries, *found.others.values()):
        assert len(each) == n - 1
        edges = [0.0, *each, 1.0]
        assert edges == sorted(set(edges))
    by_grid = found.others.get("Algorithm 2", found.boundaries)
    assert found.unlikeness(by_grid) <= min(map(found.unlikeness, found.others.values()))
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(1)


def test_latents_have_stages_whatever_their_scale_does_to_them(digits: Points) -> None:
    """Latents that are the pixels in [-1, 1] are pixels in [-1, 1]."""
    config = StagesConfig(samples=500)
    rows = digits.rows
    as_latents = latents(rows.view(-1, 1, 8, 8))
    assert find_stages(as_latents, config).boundaries == pytest.approx(
        find_stages(pixels(rows, signed=True), config).boundaries
    )


def test_twins_leave_no_time_for_the_first_stage(digits: Points) -> None:
    """Where noise has drowned what tells two twins apart, but not yet what eta sees of it."""
    base = 0.99 * digits.rows[:100]
    twins = pixels(torch.cat([base - 0.001, base + 0.001]))
    found = find_stages(twins, StagesConfig(samples=2000, alpha=0.95))
    assert found.boundaries[0] == 0
    assert 0.3 < found.boundaries[1] < 0.7
    (warning,) = found.warnings
    assert "no time satisfies alpha 0.95 for the first stage, so it is empty" in warning


def test_far_clusters_leave_no_time_for_the_third_stage(digits: Points) -> None:
    """No noise of the kernel hides in which of the two clusters a point lies."""
    cluster = torch.arange(200)[:, None] % 2 * 200.0
    values = torch.cat([10 * digits.rows[:200, 20:22], cluster.expand(200, 2)], dim=1)
    found = find_stages(latents(values), StagesConfig(samples=2000, eta=1e-3))
    assert 0 < found.boundaries[0] < 1
    assert found.boundaries[1] == 1
    assert "for the third stage, so it is empty: its boundary is 1" in found.warnings[-1]


def test_overlapping_stages_are_refused(digits: Points) -> None:
    with pytest.raises(UserError, match=r"alpha must leave a middle stage, got 0\.5: the first"):
        find_stages(digits, StagesConfig(samples=500, alpha=0.5))
