"""All 1797 digits, as the reference numbers have them."""

import pytest
import torch
from sklearn.datasets import load_digits

from stepsearch.diffusion.stages import Points, pixels


@pytest.fixture(scope="session")
def digits() -> Points:
    """In [-1, 1]; the kernel sees them in [0, 1]."""
    return pixels(torch.from_numpy(load_digits().data / 8 - 1).float())
