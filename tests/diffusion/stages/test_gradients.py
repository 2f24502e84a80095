"""Gradients of the loss: their cosines."""

import numpy as np
import torch

from stepsearch.diffusion.datasets import DigitsConfig
from stepsearch.diffusion.stages.gradients import gradient_similarity
from stepsearch.pixels import scaled


def test_gradients_at_close_times_point_the_same_way() -> None:
    small = DigitsConfig().load().train[:, :, ::2, ::2]
    cosines = gradient_similarity(small, steps=9, seed=0)
    assert cosines.shape == (100, 100)
    np.testing.assert_allclose(np.diag(cosines), 1, atol=1e-4)
    np.testing.assert_allclose(cosines, cosines.T, atol=1e-6)
    assert np.diag(cosines, 1).mean() > np.diag(cosines, 50).mean() + 0.1


def test_bytes_are_looked_at_as_they_lie() -> None:
    """Floats would take four times the memory of a file that is only mapped."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (40, 1, 4, 4), generator=generator).byte()
    as_floats = gradient_similarity(scaled(images), steps=3, seed=0)
    np.testing.assert_array_equal(gradient_similarity(images, steps=3, seed=0), as_floats)
