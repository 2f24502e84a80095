"""The forecast: what a search will take by the measured cost of a trial, budget by budget."""

from __future__ import annotations

import math
from dataclasses import dataclass

from stepsearch.cluster import LaneShape
from stepsearch.search.amounts import Amounts, Budget, amount, limits, used
from stepsearch.search.config import SearchConfig
from stepsearch.search.trial import Cost


@dataclass(frozen=True)
class Estimate:
    """What a search takes if no trial is stopped early, by the cost measured on one worker."""

    trial_s: float
    """Work of one trial, all its workers together."""
    work_s: float
    """Of all trials, and of what is prepared for them."""
    wall_s: float
    """With all lanes at work; the repeats begin when the other trials have ended."""
    disk_bytes: int
    uses: Amounts
    """What the lanes hold until the end."""


def estimate(config: SearchConfig, shape: LaneShape, cost: Cost, trials: int) -> Estimate:
    """Scale the cost of a step and of an evaluation to so many trials, and the repeats.

    Workers share them evenly.
    """
    repeats = config.finalists.repeats
    milestones = config.budget.milestones()
    steps = math.ceil(milestones[-1] / cost.batch_size)
    trial_s = steps * cost.step_s + len(milestones) * cost.evaluation_s + cost.once_s
    rounds = math.ceil(trials / shape.count) + math.ceil(repeats / shape.count)
    wall_s = cost.prepare_s + rounds * trial_s / shape.workers
    return Estimate(
        trial_s,
        work_s=cost.prepare_s + (trials + repeats) * trial_s,
        wall_s=wall_s,
        disk_bytes=(trials + repeats) * cost.checkpoint_bytes,
        uses=used(shape, config.prices, wall_s / 3600, shape.count * wall_s / 3600),
    )


def budgets(config: SearchConfig, shape: LaneShape, cost: Cost) -> list[list[str]]:
    """A row for each budget: its name, its size, and how many trials it pays for.

    Where there are prices and no budget of money, the last one is what all trials cost.
    """
    given, trials = limits(config.budget), config.budget.trials
    fixed = len(config.space.fixed(config.trainer.facts()))
    fits = {name: _fitting(config, shape, cost, name, limit) for name, limit in given.items()}
    first = min(fits.values(), default=trials)
    whole = estimate(config, shape, cost, trials).uses
    rows = []
    for name, limit in given.items():
        says = f"not reached; all trials take {whole[name]:.3g}"
        if fits[name] < trials:
            says = f"enough for {fits[name]} of {trials} trials and the repeats"
            says = says if fits[name] >= fixed else "not enough for the fixed points and repeats"
            says = f"ends the search: {says}" if fits[name] == first else says
        rows.append([f"budget.{name}", amount(name, limit, config.prices), says])
    if config.prices and "money" not in given:
        price = amount("money", whole["money"], config.prices)
        rows.append(["price", price, "of all trials, none stopped early"])
    return rows


def _fitting(
    config: SearchConfig, shape: LaneShape, cost: Cost, name: Budget, limit: float
) -> int:
    """How many trials end within the limit, and the repeats after them."""
    trials = config.budget.trials
    while trials and estimate(config, shape, cost, trials).uses[name] > limit:
        trials -= 1
    return trials
