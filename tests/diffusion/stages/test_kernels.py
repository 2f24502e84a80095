"""The three clocks, against methods/timetuner_multistage.md B1 and B5."""

import numpy as np
import pytest

from stepsearch.diffusion.noise import VPConfig
from stepsearch.diffusion.stages.kernels import KERNELS, matched

VP = KERNELS["vp"]


@pytest.mark.parametrize(
    ("t", "s", "sigma"),
    [(1e-3, 0.999945, 0.01049), (0.442, 0.370080, 2.51027), (0.6308, 0.133837, 7.40458),
     (1.0, 0.006572, 152.167)],
)  # fmt: skip
def test_vp_has_the_reference_numbers(t: float, s: float, sigma: float) -> None:
    found = VP.sigma(np.array([t]))
    assert found == pytest.approx([sigma], rel=1e-3 if t < 0.01 else 1e-5)
    assert (1 + found**2) ** -0.5 == pytest.approx([s], rel=1e-4)


def test_vp_is_the_linear_schedule_of_the_ddpm() -> None:
    process = VPConfig().build()
    t = np.arange(1, process.T + 1) / process.T
    np.testing.assert_allclose(VP.sigma(t)[10:], process.sigma[10:], rtol=0.04)


def test_boundaries_are_matched_by_their_signal_to_noise_ratio() -> None:
    """The paper's; its EDM code has 7.6577 for the second, which is t = 0.6360."""
    edges = np.array([0.442, 0.631])
    np.testing.assert_allclose(matched(edges, "edm"), [2.5103, 7.4141], atol=1e-4)
    assert VP.time(np.array([7.6577])) == pytest.approx([0.6360], abs=1e-4)


@pytest.mark.parametrize("name", KERNELS)
def test_time_is_the_inverse_of_sigma(name: str) -> None:
    t = np.linspace(0.001, 1, 50)
    kernel = KERNELS[name]
    np.testing.assert_allclose(kernel.time(kernel.sigma(t)), t, rtol=1e-9)
    np.testing.assert_allclose(kernel.sigma(matched(t, name)), VP.sigma(t), rtol=1e-9)
    assert np.all(np.diff(kernel.sigma(t)) > 0)


def test_the_boundary_of_an_empty_first_stage_is_the_beginning_of_every_kernel() -> None:
    """Which has no noise, less than VE begins with."""
    for name in KERNELS:
        assert matched(np.array([0.0]), name).tolist() == [0.0]
