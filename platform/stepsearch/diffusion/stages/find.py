"""The boundaries of a data set's stages, with what explains them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from pydantic import Field

from stepsearch.config import Config
from stepsearch.diffusion.stages.algorithms import (
    Crossing,
    RunningMeans,
    any_stages,
    running_means,
    three_stages,
    unlikeness,
)
from stepsearch.diffusion.stages.baselines import (
    Boundaries,
    equal_change,
    equal_times,
    gradient_clusters,
    snr_clusters,
)
from stepsearch.diffusion.stages.optimal import OptimalDenoiser
from stepsearch.diffusion.stages.points import Points
from stepsearch.diffusion.stages.similarity import (
    NODES,
    Denoiser,
    EndSimilarity,
    GridSimilarity,
    Progress,
    end_similarity,
    grid_similarity,
)
from stepsearch.errors import UserError
from stepsearch.strategies.base import FloatArray


class StagesConfig(Config):
    """How boundaries are found; the defaults are the multi-stage paper's."""

    n: int = Field(default=3, ge=2, le=5)
    """Stages."""
    samples: int = Field(default=5000, ge=100)
    """Evaluations of the optimal denoiser for each algorithm (K)."""
    seed: int = Field(default=0, ge=0)
    alpha: float = Field(default=0.9, gt=0, lt=1)
    """The mean similarity that the outer two of three stages keep."""
    eta: float = Field(default=2 / 256, gt=0, le=1)
    """The difference, as a share of a coordinate's range, below which it counts as the same."""
    device: str = "cpu"
    """Where the optimal denoiser is computed: cpu, cuda, cuda:1 ..."""
    memory: int = Field(default=512, ge=1)
    """MiB on the device beside the data."""


@dataclass(frozen=True)
class Found:
    """Boundaries as times of the VP kernel, and why."""

    config: StagesConfig
    points: tuple[int, int]
    """How many there are, and of how many numbers each."""
    boundaries: Boundaries
    """By Algorithm 1 for three stages, by Algorithm 2 for another number."""
    warnings: tuple[str, ...]
    crossings: tuple[Crossing, Crossing]
    ends: EndSimilarity
    means: RunningMeans
    grid: GridSimilarity
    others: dict[str, Boundaries]
    """Boundaries by other methods, by their names."""

    def unlikeness(self, boundaries: Boundaries) -> float:
        """The mean dissimilarity inside stages: see `algorithms.unlikeness`."""
        return unlikeness(self.grid.similarity, boundaries)


ALGORITHM_1, ALGORITHM_2 = "Algorithm 1", "Algorithm 2"


def find_stages(
    points: Points,
    config: StagesConfig | None = None,
    *,
    gradients: FloatArray | None = None,
    progress: Progress = lambda share: None,
) -> Found:
    """Boundaries of the stages of a data set; the same seed gives the same ones.

    `gradients` [m, m] (see `gradient_similarity`) adds the clusters of the loss's gradients to the
    other methods. Raises UserError if Algorithm 1's stages overlap, the memory is too small, or
    there is no such device.
    """
    config = config or StagesConfig()
    denoiser = OptimalDenoiser(points, device=config.device, memory=config.memory * 2**20)
    return stages_of(denoiser, config, gradients=gradients, progress=progress)


def stages_of(
    denoiser: Denoiser,
    config: StagesConfig,
    *,
    gradients: FloatArray | None = None,
    progress: Progress = lambda share: None,
) -> Found:
    """`find_stages` for an optimal denoiser whose points may be anywhere."""
    denoiser.batch(len(NODES))  # too little memory is refused now, not after Algorithm 1
    rest = (config.eta, config.seed)
    ends = end_similarity(denoiser, config.samples, *rest, lambda share: progress(share * _FIRST))
    grid = grid_similarity(
        denoiser,
        max(1, round(config.samples / len(NODES))),
        *rest,
        lambda share: progress(_FIRST + share * (1 - _FIRST)),
    )
    means = running_means(ends)
    crossings = three_stages(means, config.alpha)
    others = _others(config.n, grid, gradients)
    warnings: tuple[str, ...] = ()
    if config.n == 3:
        boundaries: Boundaries = (crossings[0].tau, crossings[1].tau)
        warnings = _warnings(crossings, config.alpha, others[ALGORITHM_2])
    else:
        boundaries = others.pop(ALGORITHM_2)
    points = len(denoiser), len(denoiser.span)
    return Found(config, points, boundaries, warnings, crossings, ends, means, grid, others)


_FIRST = 0.6
"""Algorithm 1's share of the time: Algorithm 2 shares products between a point's times."""


def check_boundaries(boundaries: Sequence[float], name: str = "boundaries") -> Boundaries:
    """The same as a tuple. Raises ValueError unless 0 < t_1 < t_2 < ... < 1, at most four."""
    edges = [0.0, *boundaries, 1.0]
    if not 3 <= len(edges) <= 6 or any(a >= b for a, b in pairwise(edges)):
        raise ValueError(
            f"{name} must be one to four times 0 < t_1 < t_2 < ... < 1, got {list(boundaries)}"
        )
    return tuple(boundaries)


def _others(n: int, grid: GridSimilarity, gradients: FloatArray | None) -> dict[str, Boundaries]:
    others = {
        ALGORITHM_2: any_stages(grid.similarity, n),
        "equal times": equal_times(n),
        "SNR clusters": snr_clusters(n),
        "equal change": equal_change(n, grid.change),
    }
    if gradients is not None:
        others["gradient clusters"] = gradient_clusters(n, gradients)
    return others


def _warnings(
    crossings: tuple[Crossing, Crossing], alpha: float, instead: Boundaries
) -> tuple[str, ...]:
    """What a reader of Algorithm 1's boundaries must know. Raises UserError if they overlap, with
    those of Algorithm 2 `instead`."""
    first, third = crossings
    if first.tau >= third.tau:
        raise UserError(
            f"alpha must leave a middle stage, got {alpha:g}: the first ends at {first.tau:g}, the"
            f" third begins at {third.tau:g}; try a larger alpha, another n or, by Algorithm 2,"
            f" {' '.join(f'{t:g}' for t in instead)}"
        )
    warnings = []
    for crossing, which, end in ((first, "first", 0), (third, "third", 1)):
        if not crossing.holds:
            warnings.append(
                f"no time satisfies alpha {alpha:g} for the {which} stage, so it is empty: its"
                f" boundary is {end}; try a smaller alpha"
            )
        elif crossing.tau != crossing.farthest:
            warnings.append(
                f"the {which} stage is taken up to the first fall of its mean below alpha, at"
                f" {crossing.tau:g}; the farthest time that satisfies it is {crossing.farthest:g}"
            )
    return tuple(warnings)
