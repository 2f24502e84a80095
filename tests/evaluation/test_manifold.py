"""The off-manifold rate on the real digits."""

from __future__ import annotations

import pytest
import torch
from scipy.spatial.distance import cdist

from stepsearch.evaluation import ImageManifold


@pytest.mark.parametrize("quantile", [0.9, 0.99])
def test_held_out_images_leave_the_manifold_as_often_as_the_quantile_says(digits, quantile):
    manifold = ImageManifold.fit(digits.train, digits.held_out, quantile)
    share = manifold.off_manifold(digits.held_out)
    assert share == pytest.approx(1 - quantile, abs=1 / len(digits.held_out))


def test_training_images_are_on_the_manifold_and_noise_is_off_it(digits, generator):
    manifold = ImageManifold.fit(digits.train, digits.held_out, 0.99)
    assert manifold.off_manifold(digits.train) == 0.0
    assert manifold.off_manifold(torch.rand(500, 1, 8, 8, generator=generator) * 2 - 1) == 1.0
    assert manifold.off_manifold(torch.randn(500, 1, 8, 8, generator=generator)) == 1.0


def test_blur_is_on_the_manifold(digits):
    # What the rate cannot see: a class's mean is as close to the data as a real image is.
    means = torch.stack([digits.train[digits.labels == digit].mean(0) for digit in range(10)])
    manifold = ImageManifold.fit(digits.train, digits.held_out, 0.99)
    assert manifold.off_manifold(means) == 0.0


def test_the_rate_is_the_share_beyond_the_threshold_by_brute_force(digits, generator):
    images = digits.train[:200] + 0.45 * torch.randn(200, 1, 8, 8, generator=generator)
    manifold = ImageManifold.fit(digits.train, digits.held_out, 0.99)
    nearest = cdist(images.flatten(1), digits.train.flatten(1)).min(1)
    expected = (nearest > manifold.threshold).mean()
    assert 0.1 < expected < 0.9
    assert manifold.off_manifold(images) == expected
