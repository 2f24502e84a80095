"""Means and covariances, at once and from batches, against numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from stepsearch.errors import UserError
from stepsearch.evaluation import Moments, statistics


def streamed(features: Tensor, sizes: list[int]) -> Moments:
    moments = Moments()
    for batch in torch.split(features, sizes):
        moments.add(batch)
    return moments


def test_statistics_are_float64_means_and_unbiased_covariances(generator):
    features = torch.randn(30, 3, generator=generator)
    mean, cov = statistics(features)
    assert mean.dtype == cov.dtype == torch.float64
    np.testing.assert_allclose(mean, features.double().numpy().mean(0), rtol=1e-12)
    np.testing.assert_allclose(cov, np.cov(features.double().numpy().T), rtol=1e-12)


def test_statistics_of_one_feature_keep_their_two_dimensions():
    mean, cov = statistics(torch.tensor([[1.0], [3.0]]))
    assert mean.tolist() == [2.0]
    assert cov.tolist() == [[2.0]]


@pytest.mark.parametrize("sizes", [[100], [1, 99], [30, 30, 39, 1], [1] * 100])
def test_statistics_of_batches_are_those_of_the_set(sizes, generator):
    features = torch.randn(100, 7, generator=generator) * torch.arange(1, 8) + 3
    moments = streamed(features, sizes)
    assert moments.count == 100
    for found, expected in zip(moments.statistics(), statistics(features), strict=True):
        assert found.dtype == torch.float64
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_features_far_from_zero_keep_their_digits(generator):
    features = torch.randn(1000, 2, generator=generator).double() * 1e-3 + 1e6
    found = streamed(features, [250] * 4).statistics()
    np.testing.assert_allclose(found.cov, np.cov(features.numpy().T), rtol=1e-5)


def test_statistics_may_be_asked_for_on_the_way(generator):
    features = torch.randn(40, 3, generator=generator)
    moments = streamed(features[:30], [10, 20])
    before = [part.clone() for part in moments.statistics()]
    torch.testing.assert_close(before, list(statistics(features[:30])), rtol=1e-12, atol=1e-12)
    moments.add(features[30:])
    assert not torch.equal(moments.statistics().mean, before[0])


@pytest.mark.parametrize("n", [0, 1])
def test_fewer_than_two_samples_have_no_statistics(n):
    moments = Moments()
    if n:
        moments.add(torch.ones(n, 4))
    with pytest.raises(UserError, match=f"features must be 2 or more, got {n}"):
        moments.statistics()
