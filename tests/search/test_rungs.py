"""The warning that trials were stopped by noise."""

from __future__ import annotations

import numpy as np
import pytest

from run_search import CURVES
from stepsearch.search.config import BudgetConfig, TrialSchedulerConfig
from stepsearch.search.rungs import FirstRung, first_rung
from stepsearch.simulation.curves import Curves

BUDGET = BudgetConfig(images=1000, reports=4, first_report=0.25)
ASHA = TrialSchedulerConfig(grace=0.25)


def curves(*columns: list[float]) -> list[dict[int, float]]:
    """Scores at 250, 500, 750 and 1000 images, a list a report."""
    return [dict(zip(BUDGET.milestones(), row, strict=True)) for row in zip(*columns, strict=True)]


GOOD = [1.0, 2, 3, 4, 5, 6, 7, 8]
NOISE = [4.0, 8, 1, 6, 3, 7, 2, 5]


def test_a_rung_that_tells_the_end_is_no_noise() -> None:
    found = first_rung(ASHA, BUDGET, curves(GOOD, GOOD, GOOD, GOOD))
    assert found == FirstRung(trials=8, share=0.25, correlation=pytest.approx(1.0), better=0.5)
    assert not found.within_noise


def test_a_rung_within_the_noise_names_the_first_report_that_tells_more() -> None:
    found = first_rung(ASHA, BUDGET, curves(NOISE, NOISE, GOOD, GOOD))
    assert found is not None
    assert found.within_noise
    assert found.better == 0.75
    assert str(found) == (
        "the ranks of the 8 finished trials at the first rung, 25% of the images, correlate with "
        "the last ones by -0.10 (Spearman), as chance may; from 75% on they tell more: "
        "trial_scheduler.grace=0.75"
    )


def test_a_report_that_tells_more_counts_only_if_the_later_ones_do() -> None:
    found = first_rung(ASHA, BUDGET, curves(NOISE, GOOD, NOISE, GOOD))
    assert found is not None
    assert found.better is None
    assert "trial_scheduler=fifo stops none" in str(found)


def test_equal_scores_at_a_rung_tell_nothing() -> None:
    found = first_rung(ASHA, BUDGET, curves([1.0] * 8, GOOD, GOOD, GOOD))
    assert found is not None
    assert found.within_noise


def test_nothing_is_said_where_nothing_is_stopped_or_little_is_known() -> None:
    whole = curves(NOISE, NOISE, GOOD, GOOD)
    assert first_rung(TrialSchedulerConfig(kind="fifo"), BUDGET, whole) is None
    assert first_rung(TrialSchedulerConfig(grace=0.99), BUDGET, whole) is None
    assert first_rung(ASHA, BUDGET, whole[:5]) is None
    assert first_rung(ASHA, BUDGET, [{1000: 1.0}, *whole[:5]]) is None


def test_few_unrelated_rankings_are_taken_for_more() -> None:
    random = np.random.default_rng(0)
    found = [
        first_rung(ASHA, BUDGET, curves(*random.random((4, 12)).tolist())) for _ in range(2000)
    ]
    assert np.mean([f is not None and f.within_noise for f in found]) == pytest.approx(
        0.95, abs=0.015
    )


def test_the_default_searchs_rung_is_beyond_the_noise_and_an_early_one_is_weaker() -> None:
    """200 recorded trainings of the default search: docs/results/2026-11-early-stopping.md."""
    recorded = Curves.read(CURVES)
    table = recorded.table(recorded.primary.name)
    images = [round(share * 10_000) for share in recorded.shares]
    budget = BudgetConfig(
        images=images[-1], reports=len(images), first_report=images[0] / images[-1]
    )
    milestones = budget.milestones()
    whole = [dict(zip(milestones, row, strict=True)) for row in table.tolist()]
    late, early = (
        first_rung(TrialSchedulerConfig(grace=grace), budget, whole) for grace in (0.5, 0.0)
    )
    assert late is not None
    assert early is not None
    assert not late.within_noise
    assert early.correlation < late.correlation
