"""The best way to cut a sequence into parts, exactly."""

from __future__ import annotations

import numpy as np

from stepsearch.strategies.base import FloatArray


def partition(
    cost: FloatArray, parts: int, smallest: int = 1, largest: int | None = None
) -> list[int]:
    """Where parts 2, 3 ... of a sequence of m elements begin, at the least sum of costs.

    cost[i, j] is that of the elements i..j-1 as one part, [m + 1, m + 1]; a part has `smallest` to
    `largest` elements. Dynamic programming over the last cut: O(parts m^2).
    """
    m = len(cost) - 1
    size = np.arange(m + 1) - np.arange(m + 1)[:, None]
    allowed = (size >= smallest) & (size <= (largest or m))
    cost = np.where(allowed, cost, np.inf)
    least, choices = cost[0], []
    for _ in range(parts - 1):
        totals = least[:, None] + cost
        choices.append(totals.argmin(0))
        least = totals.min(0)
    cuts, end = [], m
    for choice in reversed(choices):
        end = int(choice[end])
        cuts.append(end)
    return cuts[::-1]
