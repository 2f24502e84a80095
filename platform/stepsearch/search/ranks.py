"""How well an earlier search's ranking of points holds in a search that tries them again."""

from __future__ import annotations

import statistics
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from stepsearch.search.leaderboard import Row

_FEWEST = 3
"""Pairs from which on ranks are compared."""


@dataclass(frozen=True)
class Ranks:
    """The scores of the same points in two searches, compared."""

    pairs: int
    correlation: float | None
    """Spearman's, -1..1; None of fewer than three pairs, or where all scores are equal."""

    def __str__(self) -> str:
        has = "has a score" if self.pairs == 1 else "have scores"
        if self.correlation is None:
            return f"{self.pairs} of its points {has} here too, which compares no ranks"
        return (
            f"{self.pairs} of its points {has} here too, "
            f"and the ranks correlate by {self.correlation:.2f} (Spearman)"
        )


def ranks(rows: Sequence[Row]) -> Ranks | None:
    """Of the points with a value in both searches; None if none has one in the earlier search."""
    carried = [(row.earlier, row.value) for row in rows if row.earlier is not None]
    pairs = [(there, here) for there, here in carried if here is not None]
    there, here = [a for a, _ in pairs], [b for _, b in pairs]
    return Ranks(len(pairs), spearman(there, here)) if carried else None


def spearman(a: Sequence[float], b: Sequence[float]) -> float | None:
    """Pearson's correlation of the ranks; equal values share the mean of theirs."""
    if len(a) < _FEWEST or len(set(a)) == 1 or len(set(b)) == 1:
        return None
    return statistics.correlation(_ranks(a), _ranks(b))


def _ranks(values: Sequence[float]) -> list[float]:
    ordered = sorted(values)
    return [(bisect_left(ordered, v) + bisect_right(ordered, v) - 1) / 2 for v in values]
