"""The optimal denoiser against its definition in float64 and the reference numbers (B11)."""

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
import pytest
import torch
from torch import Tensor

from stepsearch.diffusion.stages import Points, pixels
from stepsearch.diffusion.stages.kernels import KERNELS
from stepsearch.diffusion.stages.optimal import OptimalDenoiser
from stepsearch.diffusion.stages.similarity import end_similarity
from stepsearch.errors import UserError
from tests.diffusion.stages.resident import most_during

ETA = 2 / 256
CPU = torch.device("cpu")


def sigma_at(*t: float) -> Tensor:
    return torch.from_numpy(KERNELS["vp"].sigma(np.array(t)))


def plain(points: Points, y: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
    """The definition: all distances, one softmax, float64. E [B, d], with its mean taken off."""
    data = points.centred(points.rows, CPU).double()
    x = y.double() + sigma * noise.double()
    distances = torch.cdist(x, data, compute_mode="donot_use_mm_for_euclid_dist")
    return (-distances.square() / (2 * sigma**2)).softmax(1) @ data


@pytest.mark.parametrize(
    ("t", "sigma", "error", "to_data", "to_noise", "eps"),
    [
        (0.05, 0.17414286, 0.00066847, 0.998437, 0.157812, (1.402426, -0.361390, -1.307569)),
        (0.1, 0.34017653, 0.31942289, 0.612500, 0.175000, (1.402426, -0.361390, -1.222019)),
        (0.2, 0.72036149, 1.45261298, 0.289062, 0.198437, (1.402426, -0.361411, -0.988892)),
        (0.3, 1.23415133, 1.87555330, 0.254688, 0.314063, (1.402426, -0.361504, -1.104417)),
        (0.4, 2.02832263, 2.03908846, 0.265625, 0.426563, (1.402426, -0.362067, -1.203989)),
        (0.6, 6.09656433, 2.11652002, 0.329688, 0.940625, (1.402426, -0.363036, -1.297263)),
        (0.8, 25.10852749, 2.13502839, 0.598437, 1.000000, (1.402426, -0.362049, -1.308990)),
    ],
)
def test_reference_numbers(
    digits: Points,
    t: float,
    sigma: float,
    error: float,
    to_data: float,
    to_noise: float,
    eps: tuple[float, ...],
) -> None:
    """The first ten digits with noise sqrt(2) sin(1.7 (k + 1) (j + 1) + 0.3 k)."""
    k, j = torch.arange(10)[:, None], torch.arange(64)
    noise = (2**0.5 * torch.sin(1.7 * (k + 1) * (j + 1) + 0.3 * k)).float()
    y = digits.centred(digits.rows[:10], CPU)
    level = sigma_at(t).float().expand(10, 1)
    assert level[0].item() == pytest.approx(sigma, rel=1e-7)
    mean = OptimalDenoiser(digits).posterior_mean(y, noise, level)[:, 0]
    assert (mean - y).norm(dim=1).mean().item() == pytest.approx(error, rel=1e-4)
    near_y = ((y - mean).abs() / level <= ETA).double().mean().item()
    near_mean = (mean.abs() / level <= ETA).double().mean().item()
    assert (near_y, near_mean) == pytest.approx((to_data, to_noise), abs=2e-6)
    predicted = noise + (y - mean) / level
    assert predicted[0, :3].tolist() == pytest.approx(eps, abs=2e-5)


@pytest.mark.parametrize("t", [0.001, 0.01, 0.1, 0.5, 0.9, 0.99, 1.0])
def test_float32_is_enough_at_all_times(digits: Points, t: float) -> None:
    y = digits.centred(digits.rows[:64], CPU)
    noise = torch.randn(64, 64, generator=torch.Generator().manual_seed(0))
    sigma = sigma_at(t)
    exact = plain(digits, y, noise, sigma)
    found = OptimalDenoiser(digits).posterior_mean(y, noise, sigma.float().expand(64, 1))[:, 0]
    assert ((found - exact).abs() / sigma).max() < 0.01 * ETA
    assert (found - exact).abs().max() < 1e-4


def test_at_the_noises_end_the_plain_distance_in_float32_is_not_enough() -> None:
    """Why the form <x, y> - |y|^2 / 2: at d = 3072 and t = 1 the distance is all |x|^2."""
    generator = torch.Generator().manual_seed(0)
    points = pixels(torch.rand(500, 3072, generator=generator).mul_(2).sub_(1))
    y = points.centred(points.rows[:16], CPU)
    noise = torch.randn(16, 3072, generator=generator)
    sigma = sigma_at(1.0).float()
    exact = plain(points, y, noise, sigma.double())
    x = y + sigma * noise
    squared = torch.cdist(x, points.centred(points.rows, CPU)).square()
    naive = (-squared / (2 * sigma**2)).softmax(1) @ points.centred(points.rows, CPU)
    found = OptimalDenoiser(points).posterior_mean(y, noise, sigma.expand(16, 1))[:, 0]
    assert (found - exact).abs().max() < 1e-6
    assert (naive - exact).abs().max() > 100 * (found - exact).abs().max()


def test_the_denoiser_removes_all_noise_where_the_points_are_far_apart(digits: Points) -> None:
    y = digits.centred(digits.rows[:20], CPU)
    noise = torch.randn(20, 64, generator=torch.Generator().manual_seed(1))
    sigma = sigma_at(1e-3).float().expand(20, 1)
    mean = OptimalDenoiser(digits).posterior_mean(y, noise, sigma)[:, 0]
    assert ((y - mean) / sigma).abs().max() < 1e-3


def test_an_image_of_many_pixels_is_itself_at_low_noise_however_the_products_round() -> None:
    """At d = 196,608 a logit of 10^8 may be rounded down by tens: all weights would be 0."""
    generator = torch.Generator().manual_seed(0)
    points = pixels(torch.rand(6, 3, 256, 256, generator=generator).mul_(2).sub_(1), signed=True)
    denoiser = OptimalDenoiser(points)
    y = denoiser.at(np.arange(6))
    noise = torch.randn(y.shape, generator=generator)
    sigma = sigma_at(0.001, 0.002, 0.004, 0.01).float().expand(6, 4)
    mean = denoiser.posterior_mean(y, noise, sigma)
    torch.testing.assert_close(mean, y[:, None].expand_as(mean), rtol=0, atol=1e-6)


def test_levels_of_the_same_noise_come_to_what_they_are_one_by_one(digits: Points) -> None:
    y = digits.centred(digits.rows[:32], CPU)
    noise = torch.randn(32, 64, generator=torch.Generator().manual_seed(2))
    sigma = sigma_at(0.02, 0.1, 0.3, 0.6, 1.0).float().expand(32, 5)
    denoiser = OptimalDenoiser(digits)
    together = denoiser.posterior_mean(y, noise, sigma)
    apart = [denoiser.posterior_mean(y, noise, sigma[:, i : i + 1]) for i in range(5)]
    torch.testing.assert_close(together, torch.cat(apart, 1), rtol=1e-4, atol=2e-5)


def test_the_memory_changes_rounding_only(digits: Points) -> None:
    y = digits.centred(digits.rows[:32], CPU)
    noise = torch.randn(32, 64, generator=torch.Generator().manual_seed(3))
    sigma = sigma_at(0.15).float().expand(32, 1)
    large, small = OptimalDenoiser(digits), OptimalDenoiser(digits, memory=100_000)
    assert small.batch(1) < 40 < large.batch(1)
    torch.testing.assert_close(
        small.posterior_mean(y, noise, sigma),
        large.posterior_mean(y, noise, sigma),
        rtol=1e-4,
        atol=2e-5,
    )


def test_too_little_memory_is_refused_with_what_is_needed(digits: Points) -> None:
    points = pixels(torch.rand(2, 3 * 512 * 512))
    with pytest.raises(UserError, match=r"memory must be at least \d+ MiB .* 786432 numbers"):
        OptimalDenoiser(points, memory=2**20)


def test_the_memory_is_a_bound_on_what_is_held_beside_the_data() -> None:
    """All distances would be 96 MB here; the allocator's own share is some MiB, more or less."""
    with ProcessPoolExecutor(1, get_context("spawn"), max_tasks_per_child=1) as alone:
        found = [alone.submit(most_beside_the_data).result() for _ in range(3)]
    assert min(found) < (24 + 16) * 1024


def most_beside_the_data() -> int:
    """KiB with a bound of 24 MiB, in a process where nothing else comes and goes."""
    torch.set_num_threads(1)
    points = pixels(torch.rand(6000, 768, generator=torch.Generator().manual_seed(0)))
    denoiser = OptimalDenoiser(points, memory=24 * 2**20)

    def work(samples: int) -> None:
        end_similarity(denoiser, samples, ETA, 0, lambda share: None)

    work(100)  # what is loaded and kept once
    return most_during(lambda: work(4000))
