"""Precision, recall, density and coverage against hand examples and brute force."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist

from stepsearch.errors import UserError
from stepsearch.evaluation import density_coverage, neighbours, precision_recall
from stepsearch.evaluation.neighbours import ball_radii, neighbour_distances


def brute_force(real: np.ndarray, fake: np.ndarray, k: int) -> tuple[float, float]:
    def covered(points: np.ndarray, centres: np.ndarray) -> float:
        radii = np.sort(cdist(centres, centres), axis=1)[:, k]
        return float((cdist(points, centres) <= radii).any(1).mean())

    return covered(fake, real), covered(real, fake)


def column(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)[:, None]


def test_precision_and_recall_of_points_on_a_line_by_hand():
    # k=1. Real balls: 0 +- 1, 1 +- 1, 5 +- 4. Fake balls: 2 +- 8, 10 +- 1, 11 +- 1.
    real, fake = column(0, 1, 5), column(2, 10, 11)
    # 2 lies in the balls of 1 and 5; 10 and 11 in none. All of 0, 1, 5 lie in the ball of 2.
    assert precision_recall(real, fake, k=1) == (pytest.approx(1 / 3), 1.0)


@pytest.mark.parametrize("k", [1, 3, 7])
def test_precision_and_recall_agree_with_brute_force(k, generator):
    real = torch.randn(120, 5, generator=generator, dtype=torch.float64)
    fake = 1.3 * torch.randn(80, 5, generator=generator, dtype=torch.float64) + 0.7
    expected = brute_force(real.numpy(), fake.numpy(), k)
    assert 0 < min(expected) <= max(expected) < 1
    assert precision_recall(real, fake, k) == expected


def test_equal_sets_have_precision_and_recall_one(generator):
    features = torch.randn(50, 6, generator=generator)
    assert precision_recall(features, features.clone()) == (1.0, 1.0)


def test_a_sampler_of_one_mode_has_precision_without_recall(generator):
    modes = torch.tensor([[0.0, 0.0], [100.0, 0.0]]).repeat(100, 1)
    real = modes + torch.randn(200, 2, generator=generator)
    fake = torch.randn(200, 2, generator=generator)
    precision, recall = precision_recall(real, fake)
    assert precision > 0.8
    assert recall < 0.55


def test_precomputed_radii_change_nothing(generator):
    real, fake = torch.randn(2, 60, 4, generator=generator, dtype=torch.float64)
    radii = ball_radii(real, 3)
    assert precision_recall(real, fake, real_radii=radii) == precision_recall(real, fake)


def test_the_radius_skips_the_sample_itself_but_not_its_duplicates():
    features = column(0, 0, 3)
    assert ball_radii(features, 1).tolist() == [0, 0, 9]
    assert ball_radii(features, 2).tolist() == [9, 9, 9]


def test_blocks_of_the_distance_matrix_join_without_a_seam(generator, monkeypatch):
    real, fake = torch.randn(2, 90, 4, generator=generator, dtype=torch.float64)
    whole = precision_recall(real, fake), neighbour_distances(fake, real, 2)
    monkeypatch.setattr(neighbours, "_BLOCK", 7 * 90)
    assert precision_recall(real, fake) == whole[0]
    torch.testing.assert_close(neighbour_distances(fake, real, 2), whole[1])


@pytest.mark.parametrize("small", ["real", "fake"])
def test_a_set_without_k_neighbours_is_a_user_error(small):
    sets = {"real": torch.rand(9, 2), "fake": torch.rand(9, 2)} | {small: torch.rand(3, 2)}
    with pytest.raises(UserError, match="must have more than k=3 samples, got 3"):
        precision_recall(**sets)


# Density and coverage (Naeem et al. 2020)


def test_density_and_coverage_of_points_on_a_line_by_hand():
    # k=1. Real balls: 0 +- 1, 1 +- 1, 5 +- 4.
    real, fake = column(0, 1, 5), column(2, 10, 11)
    # 2 lies in the balls of 1 and 5, 10 and 11 in none; the ball of 0 is empty.
    assert density_coverage(real, fake, k=1) == (pytest.approx(2 / 3), pytest.approx(2 / 3))


@pytest.mark.parametrize("k", [1, 5])
def test_density_and_coverage_agree_with_brute_force(k, generator):
    real = torch.randn(120, 5, generator=generator, dtype=torch.float64)
    fake = 1.3 * torch.randn(80, 5, generator=generator, dtype=torch.float64) + 0.7
    radii = np.sort(cdist(real, real), axis=1)[:, k]
    inside = cdist(fake, real) <= radii
    assert 0 < inside.mean() < 1
    expected = inside.sum() / (k * len(fake)), inside.any(0).mean()
    assert density_coverage(real, fake, k) == pytest.approx(expected, rel=1e-12)
    assert density_coverage(real, fake, k, real_radii=ball_radii(real, k)) == density_coverage(
        real, fake, k
    )


def test_density_of_equal_distributions_is_one_and_coverage_is_what_the_sizes_allow(generator):
    draws = [
        density_coverage(
            torch.randn(200, 3, generator=generator), torch.randn(300, 3, generator=generator)
        )
        for _ in range(40)
    ]
    density, coverage = np.mean(draws, axis=0)
    assert density == pytest.approx(1, abs=0.02)
    assert coverage == pytest.approx(1 - (200 / 500) ** 5, abs=0.005)


def test_an_outlier_among_the_real_ones_fools_precision_and_not_density(generator):
    real = torch.cat([torch.randn(200, 2, generator=generator), torch.tensor([[60.0, 0.0]])])
    far = torch.randn(200, 2, generator=generator) + torch.tensor([30.0, 0.0])
    assert precision_recall(real, far)[0] > 0.9
    assert density_coverage(real, far)[0] < 0.25


def test_a_set_without_k_neighbours_has_no_density():
    with pytest.raises(UserError, match="must have more than k=5 samples, got 5"):
        density_coverage(torch.rand(5, 2), torch.rand(9, 2))
