"""Frechet distance, KID and energy distance against closed forms, scipy and torchmetrics."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance

from stepsearch.errors import UserError
from stepsearch.evaluation import Judge, frechet_distance, frechet_error, kid, statistics
from stepsearch.evaluation.distances import energy_distance, factor


class Identity(nn.Module):
    """torchmetrics' feature extractor for inputs that are features already."""

    def __init__(self, num_features: int):
        super().__init__()
        self.num_features = num_features

    def forward(self, features: Tensor) -> Tensor:
        return features


class JudgeFeatures(nn.Module):
    def __init__(self, judge: Judge):
        super().__init__()
        self.judge = [judge]
        self.num_features = judge.config.classifier.features

    def forward(self, images: Tensor) -> Tensor:
        return self.judge[0].extractor.features(images)


def normal(generator, n: int, d: int, shift: float = 0.0) -> Tensor:
    mixing = torch.randn(d, d, generator=generator, dtype=torch.float64)
    return torch.randn(n, d, generator=generator, dtype=torch.float64) @ mixing + shift


def double(values) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_frechet_distance_of_two_normals_on_the_line_has_its_closed_form():
    # N(1, 2^2) and N(4, 6^2): (1 - 4)^2 + (2 - 6)^2 = 25
    distance = frechet_distance(double([1.0]), double([[4.0]]), double([4.0]), double([[36.0]]))
    assert distance == pytest.approx(25.0, rel=1e-12)


def test_frechet_distance_of_commuting_covariances_adds_up_the_axes(generator):
    # For covariances with the same axes: |mu_1 - mu_2|^2 + sum (sd_1 - sd_2)^2
    axes = torch.linalg.qr(torch.randn(5, 5, generator=generator, dtype=torch.float64)).Q
    sd1, sd2 = double([1.0, 2.0, 3.0, 0.0, 5.0]), double([2.0, 2.0, 0.5, 1.0, 0.0])
    cov1, cov2 = ((axes * sd.square()) @ axes.T for sd in (sd1, sd2))
    mean1, mean2 = torch.zeros(5).double(), torch.full((5,), 0.1).double()
    expected = 5 * 0.01 + float((sd1 - sd2).square().sum())
    assert frechet_distance(mean1, cov1, mean2, cov2) == pytest.approx(expected, rel=1e-7)


@pytest.mark.parametrize("n", [4, 400], ids=["singular", "regular"])
def test_frechet_distance_of_a_set_to_itself_is_zero_at_any_rank(n, generator):
    features = normal(generator, n, 20)
    assert frechet_distance(*statistics(features), *statistics(features)) < 1e-9


def test_frechet_distance_agrees_with_scipys_matrix_factor(generator):
    one, two = statistics(normal(generator, 300, 12)), statistics(normal(generator, 200, 12, 0.5))
    root = scipy.linalg.sqrtm(one.cov.numpy() @ two.cov.numpy()).real
    expected = (
        np.square(one.mean.numpy() - two.mean.numpy()).sum()
        + np.trace(one.cov.numpy())
        + np.trace(two.cov.numpy())
        - 2 * np.trace(root)
    )
    assert frechet_distance(*one, *two) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(*two, *one) == pytest.approx(expected, rel=1e-9)


def test_frechet_distance_agrees_with_torchmetrics_on_random_features(generator):
    real, fake = normal(generator, 500, 16), normal(generator, 300, 16, 0.3)
    metric = FrechetInceptionDistance(feature=Identity(16))
    metric.update(real, real=True)
    metric.update(fake, real=False)
    distance = frechet_distance(*statistics(real), *statistics(fake))
    assert distance == pytest.approx(float(metric.compute()), rel=1e-8)


def test_the_judges_distance_agrees_with_torchmetrics_on_digits(judge, digits, generator):
    fake = digits.train[:500] + 0.2 * torch.randn(500, 1, 8, 8, generator=generator)
    metric = FrechetInceptionDistance(feature=JudgeFeatures(judge))
    metric.update(digits.train, real=True)
    metric.update(fake, real=False)
    # torchmetrics takes square roots of the eigenvalues of a singular product: about 1e-6 here.
    assert judge.score(fake)["fd_digits"] == pytest.approx(float(metric.compute()), rel=1e-4)


@pytest.mark.parametrize("shape", [(1, 4), (0, 4), (5,)])
def test_fewer_than_two_samples_are_a_user_error(shape):
    with pytest.raises(UserError, match=r"features must be \[n, d\] with n >= 2"):
        statistics(torch.zeros(shape))
    with pytest.raises(UserError, match=r"features must be \[n, d\] with n >= 2"):
        kid(torch.zeros(5, 4), torch.zeros(shape))


def test_sets_with_different_numbers_of_features_are_a_user_error():
    three, four = torch.rand(5, 3), torch.rand(5, 4)
    with pytest.raises(UserError, match="same number of features, got 3 and 4"):
        frechet_distance(*statistics(three), *statistics(four))
    with pytest.raises(UserError, match="same number of features, got 3 and 4"):
        kid(three, four)


# The standard error of the Frechet distance


@pytest.mark.parametrize(("shift", "scale"), [(0.3, 1.0), (0.0, 1.5), (0.5, 0.6)])
def test_the_error_of_a_distance_is_its_spread_over_sets(shift, scale, generator):
    mean, cov = torch.zeros(6).double(), torch.diag(torch.arange(1, 7).double())
    root, distances, errors = factor(cov), [], []
    for _ in range(300):
        fake = scale * torch.randn(400, 6, generator=generator).double() @ root + shift
        of_fake = statistics(fake)
        distances.append(frechet_distance(mean, cov, *of_fake, factor1=root))
        errors.append(frechet_error(mean, root, *of_fake, fake, len(fake)))
    assert np.mean(errors) == pytest.approx(np.std(distances), rel=0.15)


def test_the_error_on_the_line_has_its_closed_form():
    # From N(0, 1) to a set with mean m and deviation s: psi = 2 m (x - m) + (1 - 1/s)(x - m)^2
    fake = double([[1.0], [2.0], [3.0], [6.0]])
    (mean, cov), zero, one = statistics(fake), double([0.0]), double([[1.0]])
    away = fake.flatten() - 3
    psi = 2 * 3 * away + (1 - 1 / math.sqrt(float(cov))) * away**2
    found = frechet_error(zero, one, mean, cov, fake, 4)
    assert found == pytest.approx(float(psi.std()) / 2, rel=1e-12)
    assert frechet_error(zero, one, mean, cov, fake, 16) == pytest.approx(found / 2)


def test_some_of_the_samples_say_how_far_all_of_them_move(generator):
    fake = torch.randn(20_000, 3, generator=generator).double() + 0.4
    zero, one, of_fake = torch.zeros(3).double(), torch.eye(3).double(), statistics(fake)
    some, others = (
        frechet_error(zero, one, *of_fake, part, len(fake)) for part in (fake, fake.flip(0))
    )
    assert some != others
    assert some == pytest.approx(others, rel=0.1)


def test_the_error_stays_finite_where_the_covariance_is_singular(generator):
    real, fake = normal(generator, 100, 20), normal(generator, 12, 20, 0.3)
    of_real, of_fake = statistics(real), statistics(fake)
    error = frechet_error(of_real.mean, factor(of_real.cov), *of_fake, fake, 12)
    assert 0 < error < frechet_distance(*of_real, *of_fake)
    constant = torch.ones(5, 20).double()
    none = frechet_error(of_real.mean, factor(of_real.cov), *statistics(constant), constant, 5)
    assert none == 0


@pytest.mark.filterwarnings("ignore:Metric `Kernel Inception Distance` will save all")
def test_kid_agrees_with_torchmetrics_when_the_subset_is_the_set(generator):
    real, fake = normal(generator, 200, 8), normal(generator, 200, 8, 0.3)
    metric = KernelInceptionDistance(feature=Identity(8), subsets=1, subset_size=200)
    metric.update(real, real=True)
    metric.update(fake, real=False)
    assert kid(real, fake) == pytest.approx(float(metric.compute()[0]), rel=1e-9)


def test_kid_of_sets_of_different_sizes_is_the_unbiased_estimate_by_loops(generator):
    real, fake = normal(generator, 7, 3).numpy(), normal(generator, 5, 3).numpy()

    def k(a, b):
        return (a @ b / 3 + 1) ** 3

    expected = (
        np.mean([k(a, b) for i, a in enumerate(real) for j, b in enumerate(real) if i != j])
        + np.mean([k(a, b) for i, a in enumerate(fake) for j, b in enumerate(fake) if i != j])
        - 2 * np.mean([k(a, b) for a in real for b in fake])
    )
    assert kid(torch.tensor(real), torch.tensor(fake)) == pytest.approx(expected, rel=1e-10)


def test_kid_of_equal_distributions_is_zero_on_average(generator):
    draws = [
        kid(*torch.randn(2, 40, 4, generator=generator, dtype=torch.float64)) for _ in range(400)
    ]
    error = np.std(draws) / np.sqrt(len(draws))
    assert abs(np.mean(draws)) < 3 * error
    assert min(draws) < 0


def test_kid_by_subsets_depends_on_its_seed_only_and_is_near_the_whole(generator):
    real, fake = torch.randn(2, 400, 4, generator=generator, dtype=torch.float64)
    fake = fake + 0.5
    subsets = {seed: kid(real, fake, subsets=20, subset_size=100, seed=seed) for seed in (0, 1)}
    assert subsets[0] == kid(real, fake, subsets=20, subset_size=100, seed=0)
    assert subsets[0] != subsets[1]
    assert subsets[0] == pytest.approx(kid(real, fake), rel=0.2)


def test_a_set_that_fits_into_a_subset_is_used_whole(generator):
    real, fake = torch.randn(300, 4, generator=generator), torch.randn(50, 4, generator=generator)
    values = [kid(real, fake[torch.randperm(50)], subsets=3, subset_size=100) for _ in range(2)]
    assert values[0] == pytest.approx(values[1], rel=1e-9)


def test_energy_distance_of_two_normals_on_the_line_has_its_closed_form(generator):
    """E|N(m, v)| = sqrt(2 v / pi) e^(-m^2 / 2v) + m erf(m / sqrt(2v)), three times."""
    real, fake = (torch.randn(4000, 1, generator=generator) + shift for shift in (0, 1))
    between = math.sqrt(4 / math.pi) * math.exp(-0.25) + math.erf(0.5)
    expected = 2 * between - 2 * math.sqrt(4 / math.pi)
    assert float(energy_distance(real, fake)) == pytest.approx(expected, abs=0.05)


def test_energy_distance_of_equal_distributions_is_zero_on_average(generator):
    sets = [[torch.randn(n, 3, generator=generator) for n in (20, 30)] for _ in range(300)]
    found = torch.stack([energy_distance(*pair) for pair in sets])
    assert abs(float(found.mean())) < 4 * float(found.std()) / math.sqrt(len(found))


def test_the_gradient_of_an_energy_distance_leads_to_the_data_and_bears_equal_points(generator):
    real = normal(generator, 50, 2, shift=3.0)
    fake = torch.zeros(10, 2, requires_grad=True)
    (gradient,) = torch.autograd.grad(energy_distance(real, fake), fake)
    assert gradient.isfinite().all()
    assert (gradient < 0).all()


def test_energy_distance_needs_two_samples_of_each(generator):
    with pytest.raises(UserError, match=r"energy_distance: features must be \[n, d\] with n >= 2"):
        energy_distance(normal(generator, 5, 2), normal(generator, 1, 2))
