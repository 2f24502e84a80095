"""Many simulated searches of the same settings, in a few numbers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from stepsearch.simulation.replay import Simulated
from stepsearch.simulation.stage import Stage

Quartiles = tuple[float, float, float]


@dataclass(frozen=True)
class Summary:
    """What settings cost and find; medians over the simulated searches, or their quartiles.

    Infinity stands for a search without a winner, or one that never got there.
    """

    searches: int
    images: float
    share: float
    """`images` over those of the same trials, had none been stopped."""
    seconds: float
    regret: Quartiles
    near_images: Quartiles
    """Images until a finished trial was within 5 % of the best recording."""
    near_seconds: float
    near: int
    """Searches that got there."""
    pruned: float
    """Trials stopped early; the mean."""
    distance: float
    """From proposals to their recordings, in the unit cube; the mean."""

    @classmethod
    def of(cls, stage: Stage, results: Sequence[Simulated]) -> Summary:
        budget, finalists = stage.config.budget, stage.config.finalists
        images = _median(r.images for r in results)
        reached = [r.near for r in results]
        return cls(
            searches=len(results),
            images=images,
            share=images / (budget.images * (budget.trials + finalists.repeats)),
            seconds=_median(r.seconds for r in results),
            regret=_quartiles(math.inf if r.regret is None else r.regret for r in results),
            near_images=_quartiles(math.inf if at is None else at.images for at in reached),
            near_seconds=_median(math.inf if at is None else at.seconds for at in reached),
            near=sum(at is not None for at in reached),
            pruned=float(np.mean([r.outcomes["pruned"] for r in results])),
            distance=float(np.mean([r.distance for r in results])),
        )

    def as_json(self) -> dict[str, object]:
        """Numbers and lists of numbers; null for infinity."""
        return {name: _finite(value) for name, value in vars(self).items()}


def _quartiles(values: Iterable[float]) -> Quartiles:
    """Each one a value that was there: nothing is interpolated to infinity."""
    low, middle, high = np.quantile(list(values), (0.25, 0.5, 0.75), method="nearest")
    return float(low), float(middle), float(high)


def _median(values: Iterable[float]) -> float:
    return _quartiles(values)[1]


def _finite(value: object) -> object:
    if isinstance(value, tuple):
        return [_finite(part) for part in value]
    return None if value == math.inf else value
