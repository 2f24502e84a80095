"""The audit of early stopping: what an early report says about the end, in numbers."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata

from stepsearch.errors import UserError
from stepsearch.simulation.curves import Curves, FloatArray

TRUSTED = 0.8
"""The rank correlation from which on a report may stop trials; see `recommend`."""
KEPT = 0.95
"""The share of the finally best tenth that the first rung must let through."""
REDUCTIONS = (4, 3, 2)
_RESAMPLES = 1000
_FEWEST = 10


@dataclass(frozen=True)
class RankCorrelation:
    """How far the order at a report is the order at the end: Spearman's rho."""

    metric: str
    share: float
    """Of the images, at the report."""
    rho: float
    low: float
    high: float
    """The 90 % interval of a bootstrap over configurations."""


@dataclass(frozen=True)
class Spread:
    """What a metric's final value varies with."""

    metric: str
    between: float
    """Standard deviation between configurations, on one seed."""
    seeds: float | None
    """Standard deviation between seeds of one configuration; None without repeats."""


@dataclass(frozen=True)
class Recommendation:
    """Settings that the recorded curves speak for; None where they do not tell."""

    grace: float | None
    """trial_scheduler.grace: the share of the images before which no trial is to be stopped."""
    reduction: int | None
    """trial_scheduler.reduction"""
    seeds: int | None
    """finalists.seeds"""


def rank_correlations(curves: Curves, metric: str, seed: int = 0) -> list[RankCorrelation]:
    """One a milestone, the last one aside. Raises UserError for fewer than ten configurations."""
    table = curves.table(metric)
    if len(table) < _FEWEST:
        raise UserError(f"curves must hold {_FEWEST} configurations or more, got {len(table)}")
    drawn = np.random.default_rng(seed).integers(len(table), size=(_RESAMPLES, len(table)))
    final, found = table[:, -1], []
    for share, early in zip(curves.shares[:-1], table.T, strict=False):
        low, high = np.quantile(_spearman(early[drawn], final[drawn]), (0.05, 0.95))
        rho = _spearman(early[None], final[None])[0]
        found.append(RankCorrelation(metric, share, float(rho), float(low), float(high)))
    return found


def spread(curves: Curves, metric: str) -> Spread:
    """Configurations against seeds.

    The repeats of the best were chosen by their first seed, which flatters them: it is left out.
    """
    finals = curves.table(metric)[:, -1]
    again: dict[int, list[float]] = {}
    for recording in curves.recordings:
        if recording.repeats is not None:
            again.setdefault(recording.repeats, []).append(recording.final[metric])
    variances = [statistics.variance(values) for values in again.values() if len(values) > 1]
    seeds = math.sqrt(statistics.fmean(variances)) if variances else None
    return Spread(metric, float(np.std(finals, ddof=1)), seeds)


def recommend(curves: Curves) -> Recommendation:
    """When to begin stopping trials, how many to keep, and how often to repeat the finalists.

    grace: the earliest share of the images from which on the rank correlation of the primary
    objective with its final value is TRUSTED, by the lower bound of its interval. If both values
    were normal, the better half of a rung would hold 98 % of the configurations that end in the
    best tenth at a correlation of 0.8, 90 % at 0.6 and 71 % at 0.3.

    reduction: the largest one whose first rung lets KEPT of the finally best tenth through.

    seeds: n >= (2 sqrt(2) s / D)^2, so that a difference D between the means of two
    configurations is two standard errors or more. s is the standard deviation between seeds; D is
    half of what the best configuration gains on the baseline.
    """
    metric = curves.primary.name
    trusted = [c.low >= TRUSTED for c in rank_correlations(curves, metric)]
    since = next((i for i in range(len(trusted)) if all(trusted[i:])), None)
    return Recommendation(
        None if since is None else curves.shares[since],
        None if since is None else _reduction(curves, since),
        _seeds(curves),
    )


def kept(curves: Curves, milestone: int, reduction: float) -> float:
    """The share of the finally best tenth that is in the best 1/reduction at a milestone."""
    sign = 1 if curves.primary.direction == "minimize" else -1
    table = sign * curves.table(curves.primary.name)
    best = np.argsort(table[:, -1])[: max(1, len(table) // 10)]
    through = np.argsort(table[:, milestone])[: math.ceil(len(table) / reduction)]
    return float(np.isin(best, through).mean())


def _reduction(curves: Curves, milestone: int) -> int | None:
    return next((r for r in REDUCTIONS if kept(curves, milestone, r) >= KEPT), None)


def _seeds(curves: Curves) -> int | None:
    metric, s = curves.primary.name, spread(curves, curves.primary.name).seeds
    if s is None:
        return None
    sign = 1 if curves.primary.direction == "minimize" else -1
    best = min(sign * recording.final[metric] for recording in curves.originals)
    difference = (sign * curves.baseline.final[metric] - best) / 2
    return max(2, math.ceil((2 * math.sqrt(2) * s / difference) ** 2)) if difference > 0 else None


def _spearman(a: npt.ArrayLike, b: npt.ArrayLike) -> FloatArray:
    """Along the last axis; 0 where one side is all the same and so says nothing."""
    x, y = (rankdata(side, axis=-1) for side in (a, b))
    x, y = (side - side.mean(axis=-1, keepdims=True) for side in (x, y))
    norm = np.sqrt((x**2).sum(axis=-1) * (y**2).sum(axis=-1))
    product: FloatArray = (x * y).sum(axis=-1)
    return product / np.where(norm > 0, norm, 1.0)
