"""Ranks of the same points in two searches."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import spearmanr

from stepsearch.search.ranks import Ranks, spearman


def test_the_correlation_is_spearmans_with_ties_too() -> None:
    draw = np.random.default_rng(0)
    for size in (3, 5, 12):
        a, b = draw.integers(0, size, size), draw.normal(size=size)
        if len(set(a)) > 1:
            found = spearman(a.tolist(), b.tolist())
            assert found == pytest.approx(spearmanr(a, b).statistic)
    assert spearman([1, 2, 3], [10, 20, 3000]) == pytest.approx(1)
    assert spearman([1, 2, 3], [3, 2, 1]) == pytest.approx(-1)


@pytest.mark.parametrize(("a", "b"), [([1, 2], [1, 2]), ([1, 1, 1], [1, 2, 3]), ([], [])])
def test_where_nothing_can_be_compared_there_is_no_correlation(
    a: list[float], b: list[float]
) -> None:
    assert spearman(a, b) is None


def test_it_is_said_in_one_sentence() -> None:
    assert str(Ranks(6, 0.77143)) == (
        "6 of its points have scores here too, and the ranks correlate by 0.77 (Spearman)"
    )
    assert str(Ranks(1, None)) == "1 of its points has a score here too, which compares no ranks"
