"""A small denoiser, and a trajectory for each sampler."""

from __future__ import annotations

from typing import Any

import pytest

from stepsearch.diffusion.denoisers import UNetConfig

# a kind and a trajectory that it runs
SOLVERS = {
    "ddim": "trailing",
    "ddpm": "quadratic",
    "euler": "leading",
    "heun": "edm",
    "dpm_solver_2": "log_snr",
    "dpmpp_2m": "leading_1",
    "unipc": "linspace",
}


@pytest.fixture(scope="module")
def denoiser() -> Any:
    return UNetConfig(channels=(8, 16)).build((1, 8, 8), seed=0).eval()
