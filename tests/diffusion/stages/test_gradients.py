"""Gradients of the loss: their cosines."""

import numpy as np

from stepsearch.diffusion.datasets import DigitsConfig
from stepsearch.diffusion.stages.gradients import gradient_similarity


def test_gradients_at_close_times_point_the_same_way() -> None:
    small = DigitsConfig().load().train[:, :, ::2, ::2]
    cosines = gradient_similarity(small, steps=9, seed=0)
    assert cosines.shape == (100, 100)
    np.testing.assert_allclose(np.diag(cosines), 1, atol=1e-4)
    np.testing.assert_allclose(cosines, cosines.T, atol=1e-6)
    assert np.diag(cosines, 1).mean() > np.diag(cosines, 50).mean() + 0.1
