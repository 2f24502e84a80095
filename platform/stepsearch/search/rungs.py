"""What the first report that may end a trial said about the ends of those that it let through."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from stepsearch.search.config import BudgetConfig, TrialSchedulerConfig
from stepsearch.search.ranks import spearman

_FEWEST = 6
"""Finished trials from which on their ranks are looked at."""
_BEYOND_CHANCE = 1.645
"""Standard errors: 5 % of unrelated rankings are further up."""


@dataclass(frozen=True)
class FirstRung:
    """Spearman's correlation of the finished trials' scores there with their last ones."""

    trials: int
    share: float
    """Of the images, at the first rung."""
    correlation: float
    better: float | None
    """The share from which on every report's correlation is beyond chance; None if none is."""

    @property
    def within_noise(self) -> bool:
        return not _beyond_chance(self.correlation, self.trials)

    def __str__(self) -> str:
        change = "trial_scheduler=fifo stops none"
        if self.better is not None:
            grace = math.floor(1e4 * self.better) / 1e4  # no later than the report itself
            change = f"from {self.better:.0%} on they tell more: trial_scheduler.grace={grace:g}"
        return (
            f"the ranks of the {self.trials} finished trials at the first rung, "
            f"{self.share:.0%} of the images, correlate with the last ones by "
            f"{self.correlation:.2f} (Spearman), as chance may; {change}"
        )


def first_rung(
    scheduler: TrialSchedulerConfig, budget: BudgetConfig, curves: Sequence[dict[int, float]]
) -> FirstRung | None:
    """`curves` are images_seen -> score of the finished trials, one seed each.

    None where nothing is stopped early, or too few trials have finished.
    """
    if scheduler.kind == "fifo":
        return None
    milestones = budget.milestones()
    rung = milestones.index(scheduler.first_rung(budget))
    scores = [[c[m] for m in milestones] for c in curves if all(m in c for m in milestones)]
    if rung == len(milestones) - 1 or len(scores) < _FEWEST:
        return None
    found = [spearman(early, [s[-1] for s in scores]) for early in zip(*scores, strict=True)]
    beyond = [_beyond_chance(rho or 0.0, len(scores)) for rho in found[:-1]]
    later = range(rung + 1, len(beyond))
    better = next((milestones[i] / budget.images for i in later if all(beyond[i:])), None)
    return FirstRung(len(scores), milestones[rung] / budget.images, found[rung] or 0.0, better)


def _beyond_chance(rho: float, n: int) -> bool:
    return rho * math.sqrt(n - 1) > _BEYOND_CHANCE
