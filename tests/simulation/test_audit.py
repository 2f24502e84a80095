"""What an early report says about the end."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from scipy.stats import spearmanr

from run_search import CURVES, DEFAULT, load
from stepsearch.errors import UserError
from stepsearch.simulation.audit import kept, rank_correlations, recommend, spread
from stepsearch.simulation.curves import Curves, Recording
from stepsearch.study import Direction, Objective


def curves_of(
    columns: Sequence[Sequence[float]],
    repeats: Sequence[tuple[int, float]] = (),
    direction: Direction = "minimize",
) -> Curves:
    """A column of values a milestone; the first configuration is the baseline."""
    milestones = [100 * (i + 1) for i in range(len(columns))]
    recordings = [
        Recording(
            number=i,
            label="",
            role="proposal" if i else "baseline",
            params={},
            reports={at: {"fd": float(v)} for at, v in zip(milestones, values, strict=True)},
        )
        for i, values in enumerate(zip(*columns, strict=True))
    ]
    for i, (of, value) in enumerate(repeats):
        reports = {at: {"fd": value} for at in milestones}
        recordings.append(Recording(100 + i, "", "repeat", {}, reports, repeats=of, seed=i + 1))
    return Curves((Objective("fd", direction),), tuple(recordings))


UP = list(range(20, 0, -1))  # the baseline is the worst one
DOWN = UP[::-1]
SAME = [1.0] * 20


def test_an_order_that_stays_correlates_and_one_that_turns_correlates_the_other_way() -> None:
    found = rank_correlations(curves_of([UP, DOWN, SAME, UP]), "fd")
    assert [c.rho for c in found] == pytest.approx([1, -1, 0])
    assert [c.share for c in found] == [0.25, 0.5, 0.75]
    assert [c.low for c in found] == pytest.approx([1, -1, 0])
    assert [c.high for c in found] == pytest.approx([1, -1, 0])


def test_the_rank_correlation_is_scipys_ties_included() -> None:
    early, final = np.random.default_rng(0).integers(6, size=(2, 30)).astype(float)
    [found] = rank_correlations(curves_of([list(early), list(final)]), "fd")
    assert found.rho == pytest.approx(spearmanr(early, final).statistic)
    assert found.low < found.rho < found.high


def test_more_configurations_make_the_interval_narrower() -> None:
    random = np.random.default_rng(0)
    width = {}
    for n in (20, 200):
        final = random.normal(size=n)
        early = final + random.normal(size=n)
        [found] = rank_correlations(curves_of([list(early), list(final)]), "fd")
        width[n] = found.high - found.low
    assert width[200] < width[20] / 2


def test_a_handful_of_configurations_is_not_audited() -> None:
    with pytest.raises(UserError, match="curves must hold 10 configurations or more, got 9"):
        rank_correlations(curves_of([UP[:9], UP[:9]]), "fd")


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
def test_kept_is_the_share_of_the_finally_best_that_a_rung_lets_through(
    direction: Direction,
) -> None:
    # 20 configurations: the best two at the end are second and eleventh at the report.
    sign = 1 if direction == "minimize" else -1
    early = [sign * v for v in [2, 11, 1, *range(3, 11), *range(12, 21)]]
    final = [sign * v for v in range(1, 21)]
    curves = curves_of([early, final], direction=direction)
    assert kept(curves, 0, reduction=2) == 0.5
    assert kept(curves, 0, reduction=1.5) == 1.0
    assert kept(curves, 0, reduction=20) == 0.0
    assert kept(curves, 1, reduction=4) == 1.0


def test_seeds_are_compared_without_the_one_that_chose_the_best() -> None:
    repeats = [(0, 20.0), (0, 22.0), (3, 1.0), (3, 4.0)]  # variances 2 and 4.5
    found = spread(curves_of([UP, UP], repeats), "fd")
    assert found.seeds == pytest.approx(3.25**0.5)
    assert found.between == pytest.approx(np.std(UP, ddof=1))
    assert spread(curves_of([UP, UP]), "fd").seeds is None


def test_early_stopping_begins_where_the_order_stays() -> None:
    repeats = [(0, 20.0), (0, 22.0), (3, 1.0), (3, 4.0)]
    advice = recommend(curves_of([UP, DOWN, UP, UP, UP], repeats))
    assert advice.grace == 0.6, "an order that turns again later is not trusted"
    assert advice.reduction == 4
    # D is half of 20 - 1, s^2 is 3.25: 8 * 3.25 / 9.5^2 = 0.29, and two is the least.
    assert advice.seeds == 2
    noisy = [(0, 20.0), (0, 40.0), (3, 1.0), (3, 21.0)]  # s^2 = 200: 8 * 200 / 9.5^2 = 17.7
    assert recommend(curves_of([UP, UP], noisy)).seeds == 18


def test_curves_that_tell_nothing_recommend_nothing() -> None:
    advice = recommend(curves_of([DOWN, SAME, UP]))
    assert (advice.grace, advice.reduction, advice.seeds) == (None, None, None)


def test_the_default_search_stops_no_earlier_and_no_harder_than_the_shipped_curves_allow() -> None:
    advice, config = recommend(Curves.read(CURVES)), load(DEFAULT, [])
    assert advice.grace is not None
    assert advice.reduction is not None
    first_rung = config.trial_scheduler.first_rung(config.budget)
    assert first_rung >= advice.grace * config.budget.images
    assert config.trial_scheduler.reduction <= advice.reduction
    assert config.finalists.seeds >= (advice.seeds or 2)
