"""The noise processes of the methods page, and a seeded generator."""

from collections.abc import Callable

import pytest
import torch

from stepsearch.diffusion.noise import VPConfig
from stepsearch.strategies import FloatArray


@pytest.fixture
def alpha_bar() -> Callable[..., FloatArray]:
    """alpha_bar("cosine", 500): the float64 table of that process; T = 1000 by default."""

    def build(schedule: str = "linear", timesteps: int = 1000) -> FloatArray:
        config = VPConfig.model_validate({"schedule": schedule, "timesteps": timesteps})
        return config.build().alpha_bar

    return build


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)
