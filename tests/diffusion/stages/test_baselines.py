"""The other methods, against methods/timetuner_multistage.md B6."""

import itertools

import numpy as np
import pytest

from stepsearch.diffusion.stages.baselines import (
    equal_change,
    equal_times,
    gradient_clusters,
    snr_clusters,
)
from stepsearch.diffusion.stages.partition import partition
from stepsearch.diffusion.stages.similarity import NODES


@pytest.mark.parametrize(
    ("n", "boundaries"),
    [
        (2, (0.568,)),
        (3, (0.348, 0.709)),  # the paper's
        (4, (0.222, 0.523, 0.780)),
        (5, (0.154, 0.394, 0.623, 0.822)),
    ],
)
def test_snr_clusters_are_exactly_the_references(n: int, boundaries: tuple[float, ...]) -> None:
    assert snr_clusters(n) == boundaries


def test_snr_clusters_of_a_hundred_timesteps() -> None:
    assert snr_clusters(3, timesteps=100) == (0.36, 0.72)


def test_a_partition_is_the_best_of_all() -> None:
    random = np.random.default_rng(0)
    cost = random.random((9, 9))

    def total(cuts: tuple[int, ...]) -> float:
        return float(sum(cost[i, j] for i, j in itertools.pairwise((0, *cuts, 8))))

    for parts in (2, 3, 4):
        ways = list(itertools.combinations(range(1, 8), parts - 1))
        assert tuple(partition(cost, parts)) == min(ways, key=total)
        within = [w for w in ways if all(1 < b - a < 5 for a, b in itertools.pairwise((0, *w, 8)))]
        found = partition(cost, parts, smallest=2, largest=4)
        assert tuple(found) == min(within, key=total)


def test_gradients_that_come_in_blocks_are_cut_between_them() -> None:
    block = np.repeat([0, 1, 2], [30, 45, 25])
    similarity = np.where(block[:, None] == block, 0.9, 0.1)
    assert gradient_clusters(3, similarity) == (0.31, 0.76)


def test_equal_change_spends_the_same_in_every_stage() -> None:
    assert equal_change(4, np.diff(NODES)) == pytest.approx([0.25075, 0.5005, 0.75025])
    late = np.zeros(20)
    late[19] = 1
    assert equal_change(2, late) == pytest.approx([(NODES[19] + 1) / 2])


@pytest.mark.parametrize("timesteps", [100, 1000])
def test_equal_times_are_clusters_of_the_timestep_itself(timesteps: int) -> None:
    """The references .34, .67 and .334, .667 are the first times in each."""
    t = np.arange(1, timesteps + 1) / timesteps
    i, j = np.ogrid[: timesteps + 1, : timesteps + 1]
    size = np.maximum(j - i, 0)
    below, above = size // 2, np.maximum(size - 1, 0) // 2
    cost = below * (below + 1) + above * (above + 1)  # twice the sum of |t - t_c|, in steps
    found = t[partition(cost, 3)]
    assert found == pytest.approx((0.34, 0.67) if timesteps == 100 else (0.334, 0.667))
    assert equal_times(3) == pytest.approx(found, abs=1 / timesteps)
