"""The optimal denoiser over several parts of the data is the one over all of it."""

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from stepsearch.diffusion.stages import Points, StagesConfig, find_stages, latents, pixels
from stepsearch.diffusion.stages.find import stages_of
from stepsearch.diffusion.stages.kernels import KERNELS
from stepsearch.diffusion.stages.optimal import OptimalDenoiser
from stepsearch.diffusion.stages.sharded import Everywhere, Read, Shard, ShardedDenoiser
from stepsearch.errors import UserError
from tests.diffusion.stages.resident import most_during

MEMORY = 64 * 2**20


def in_this_process(*reads: Read, signed: bool = False, memory: int = MEMORY) -> Everywhere:
    """A shard for each of them."""
    shards = [
        Shard(read, part, len(reads), signed=signed, device="cpu", memory=memory)
        for part, read in enumerate(reads)
    ]

    def call(method: Callable[..., Any], *arguments: Any) -> list[Any]:
        return [getattr(shard, method.__name__)(*arguments) for shard in shards]

    return call


def sharded(images: Tensor, parts: int, *, is_pixels: bool = True) -> ShardedDenoiser:
    return ShardedDenoiser(in_this_process(*[lambda: (images, is_pixels)] * parts), memory=MEMORY)


@pytest.mark.parametrize("parts", [1, 2, 5])
def test_parts_give_the_boundaries_of_the_whole(digits: Points, parts: int) -> None:
    config, shares = StagesConfig(samples=1000), list[float]()
    whole = find_stages(digits, config)
    found = stages_of(sharded(digits.rows, parts), config, progress=shares.append)
    assert found.points == whole.points == (1797, 64)
    np.testing.assert_array_equal(found.ends.t, whole.ends.t)
    np.testing.assert_allclose(found.ends.to_data, whole.ends.to_data, atol=1 / 64)
    assert found.boundaries == pytest.approx(whole.boundaries, abs=1e-3)
    for name, boundaries in whole.others.items():
        assert found.others[name] == pytest.approx(boundaries, abs=1e-3)
    assert shares == sorted(shares)
    assert shares[-1] == 1


@pytest.mark.parametrize("t", [0.001, 0.1, 0.3, 0.6, 1.0])
def test_sums_over_parts_merge_exactly(digits: Points, t: float) -> None:
    """Sorted by brightness, so that most parts have no point near to most of the y."""
    rows = digits.rows[digits.rows.sum(1).argsort()]
    chosen = np.arange(0, 1797, 50)
    one, parted = OptimalDenoiser(pixels(rows)), sharded(rows, 4)
    y = one.at(chosen)
    torch.testing.assert_close(parted.at(chosen), y)
    noise = torch.randn(y.shape, generator=torch.Generator().manual_seed(0))
    levels = torch.from_numpy(KERNELS["vp"].sigma(np.array([t, t / 2]))).float()
    sigma = levels.expand(len(y), 2)
    torch.testing.assert_close(
        parted.posterior_mean(y, noise, sigma),
        one.posterior_mean(y, noise, sigma),
        rtol=1e-4,
        atol=2e-5,
    )


def test_points_come_from_whichever_part_has_them(digits: Points) -> None:
    chosen = np.random.default_rng(0).integers(1797, size=100)
    expected = OptimalDenoiser(digits).at(chosen)
    torch.testing.assert_close(sharded(digits.rows, 3).at(chosen), expected)


def test_a_channels_range_is_that_of_all_parts(digits: Points) -> None:
    values = digits.rows.view(-1, 1, 8, 8) * torch.linspace(0.1, 3, 1797)[:, None, None, None]
    assert torch.equal(sharded(values, 4, is_pixels=False).span, latents(values).span)


def test_a_part_may_be_a_single_image(digits: Points) -> None:
    assert len(sharded(digits.rows[:3], 3)) == 3


@pytest.mark.parametrize(
    ("reads", "line"),
    [
        ([torch.rand(2, 4)] * 3, "workers must be at most one for each of 2 images, got 3"),
        ([torch.rand(9, 4), torch.rand(8, 4)],
         r"the data set must be the same for all workers, got \(8, 4\) and \(9, 4\)"),
        ([torch.tensor(3.0)] * 2, r"the data set must have shape \[N, ...\], got \(\)"),
        ([torch.zeros(9, 4)] * 2,
         "the data set must hold at least 2 different images, got 9 identical ones"),
        ([torch.full((9, 4), torch.nan)] * 2,
         "the data set must hold finite numbers, got NaN or infinite ones"),
        ([2 * torch.arange(9.0)[:, None]] * 2,
         "pixels must be uint8 or in -1..1, got values in 0..16"),
    ],
)  # fmt: skip
def test_what_cannot_be_sharded_is_refused(reads: list[Tensor], line: str) -> None:
    everywhere = in_this_process(*[lambda images=images: (images, True) for images in reads])
    with pytest.raises(UserError, match=f"^{line}$"):
        ShardedDenoiser(everywhere, memory=MEMORY)


@pytest.mark.parametrize(("here", "there"), [(100_000, MEMORY), (MEMORY, 100_000)])
def test_the_memory_bounds_what_is_asked_for_at_a_time(
    digits: Points, here: int, there: int
) -> None:
    reads = [lambda: (digits.rows, True)] * 2
    little = ShardedDenoiser(in_this_process(*reads, memory=there), memory=here)
    assert little.batch(21) < 10 < sharded(digits.rows, 2).batch(21)
    with pytest.raises(UserError, match=r"^memory must be at least 1 MiB for points of 64"):
        ShardedDenoiser(in_this_process(*reads), memory=1000).batch(21)


def test_the_memory_is_a_bound_on_what_a_worker_holds_beside_its_part() -> None:
    """All its distances would be 48 MB here; the allocator's own share is some MiB."""
    with ProcessPoolExecutor(1, get_context("spawn"), max_tasks_per_child=1) as alone:
        found = [alone.submit(most_beside_the_part).result() for _ in range(2)]
    assert min(found) < (24 + 16) * 1024


def most_beside_the_part() -> int:
    """KiB with a bound of 24 MiB, in a process where nothing else comes and goes."""
    torch.set_num_threads(1)
    images = torch.rand(12_000, 768, generator=torch.Generator().manual_seed(0))
    shard = Shard(lambda: (images, True), 0, 2, signed=False, device="cpu", memory=24 * 2**20)
    shard.begin(shard.look().part)
    size = shard.batch(1)
    arrays = [np.ones((size, columns), dtype=np.float32) for columns in (768, 768, 1)]
    shard.sums(*(array[:10] for array in arrays))  # what is loaded and kept once
    return most_during(lambda: shard.sums(*arrays))
