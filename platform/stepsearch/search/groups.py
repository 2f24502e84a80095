"""Which family is best, and is the difference real? Finalists of several groups, compared."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from stepsearch.search.leaderboard import Leaderboard, Row
from stepsearch.study import Objective

FloatArray = npt.NDArray[np.float64]
_DRAWS = 20_000


@dataclass(frozen=True)
class Group:
    """The best trial with one value of a parameter."""

    name: str
    row: Row
    mean: float
    """Of the seeds that did not choose it."""
    chance: float
    """That it is the best one of all groups."""


@dataclass(frozen=True)
class Groups:
    """The best trials of the values of a parameter on the same seeds, best first.

    A trial's first seed is left out: it was chosen by it, which flatters it. The model is
    value = trial + seed + noise, of logarithms where all values are positive, with noise of one
    size: a few seeds tell little of one trial's spread, all trials together tell it better.
    """

    by: str
    seeds: int
    of: tuple[Group, ...]
    gap: tuple[float, float, float]
    """How far the second is behind the first, and its 95 % interval; 0.1 is 10 %."""

    @property
    def differs(self) -> bool:
        """Whether the interval excludes 0."""
        return self.gap[1] > 0

    def __str__(self) -> str:
        listed = ", ".join(f"{g.name} {g.mean:.3g} (P(best) {g.chance:.2f})" for g in self.of)
        middle, low, high = self.gap
        verdict = "the first is the best" if self.differs else "the first two may be equal"
        return (
            f"by {self.by}, on {self.seeds} seeds that chose none of them: {listed}; the second "
            f"is behind by {middle:.0%} (95 %: {low:.0%} to {high:.0%}), so {verdict}"
        )


def compare_groups(board: Leaderboard, by: str) -> Groups | None:
    """None unless there are two groups or more with two seeds or more besides the first."""
    chosen: dict[str, Row] = {}
    for row in board.rows:
        if by in row.params and len(row.values) > 2:
            chosen.setdefault(str(row.params[by]), row)
    seeds = min((len(row.values) - 1 for row in chosen.values()), default=0)
    if len(chosen) < 2:
        return None
    names = tuple(chosen)
    values = np.array([chosen[name].values[1 : 1 + seeds] for name in names])
    return _compared(by, names, [chosen[name] for name in names], values, board.primary)


def _compared(
    by: str, names: Sequence[str], rows: Sequence[Row], values: FloatArray, primary: Objective
) -> Groups:
    sign = 1.0 if primary.direction == "minimize" else -1.0
    logs = bool((values > 0).all())
    scale = sign * (np.log(values) if logs else values)
    effect = scale.mean(1)
    noise, freedom = _noise(scale)
    chances = _chances(effect, noise, freedom, values.shape[1])
    order = np.argsort(effect)
    found = tuple(
        Group(names[i], rows[i], float(values[i].mean()), float(chances[i])) for i in order
    )
    first, second = order[:2]
    behind = float(effect[second] - effect[first])
    margin = _quantile(freedom) * noise * math.sqrt(2 / values.shape[1])
    unit = 1.0 if logs else abs(float(values[first].mean()))
    ends = (behind, behind - margin, behind + margin)
    gap = [math.expm1(end) if logs else end / unit for end in ends]
    return Groups(by, values.shape[1], found, (gap[0], gap[1], gap[2]))


def _noise(scale: FloatArray) -> tuple[float, int]:
    """Standard deviation of what neither trial nor seed explains, and its degrees of freedom."""
    rest = scale - scale.mean(1, keepdims=True) - scale.mean(0) + scale.mean()
    freedom = (scale.shape[0] - 1) * (scale.shape[1] - 1)
    return math.sqrt(float((rest**2).sum()) / freedom), freedom


def _chances(effect: FloatArray, noise: float, freedom: int, seeds: int) -> FloatArray:
    """P(best) of each, with the noise's own uncertainty."""
    random = np.random.default_rng(0)
    spread = noise * np.sqrt(freedom / random.chisquare(freedom, _DRAWS)) / math.sqrt(seeds)
    drawn = effect + random.normal(size=(_DRAWS, len(effect))) * spread[:, None]
    wins: FloatArray = np.bincount(drawn.argmin(1), minlength=len(effect)) / _DRAWS
    return wins


def _quantile(freedom: int) -> float:
    from scipy.stats import t  # a second, which only a closing page takes

    return float(t.ppf(0.975, freedom))
