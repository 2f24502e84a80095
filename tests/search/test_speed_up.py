"""Images to the baseline's final quality."""

from __future__ import annotations

import pytest

from stepsearch.search.speed_up import SpeedUp, images_to_reach, speed_up


def test_between_two_reports_it_is_linear() -> None:
    assert images_to_reach({100: 4.0, 200: 2.0}, 3.0) == 150


def test_a_quality_met_exactly_at_a_report_is_reached_there() -> None:
    assert images_to_reach({100: 4.0, 200: 2.0}, 2.0) == 200


def test_there_at_the_first_report_counts_as_that_report() -> None:
    assert images_to_reach({100: 1.0, 200: 0.5}, 3.0) == 100


def test_never_reached_is_none() -> None:
    assert images_to_reach({100: 4.0, 200: 3.5}, 3.0) is None
    assert images_to_reach({}, 3.0) is None


def test_a_quality_to_maximize_is_reached_from_below() -> None:
    assert images_to_reach({100: 0.2, 200: 0.4}, 0.3, minimize=False) == pytest.approx(150)


def test_the_first_crossing_counts_even_if_the_curve_rises_again() -> None:
    assert images_to_reach({100: 4.0, 200: 2.0, 300: 5.0}, 3.0) == 150


def test_seeds_are_paired_each_with_its_own_baseline() -> None:
    baseline = [{100: 5.0, 400: 2.0}, {100: 5.0, 400: 3.0}]
    trial = [{100: 4.0, 200: 2.0, 400: 1.0}, {100: 4.0, 400: 3.5}]
    found = speed_up(baseline, trial)
    assert found == SpeedUp((2.0, None))
    assert found.median is None, "the seed that never got there is the worst of two"
    assert str(found) == "not reached"


def test_the_median_of_three_seeds_bears_one_that_never_got_there() -> None:
    found = SpeedUp((2.0, None, 1.5))
    assert found.median == 1.5
    assert str(found) == "1.50x (not reached..2.00, 3 seeds)"


def test_without_a_pair_there_is_no_speed_up() -> None:
    assert speed_up([], [{100: 1.0}]) is None
    assert speed_up([{}], [{100: 1.0}]) is None


def test_one_report_says_nothing_of_speed() -> None:
    assert speed_up([{100: 2.0}], [{100: 1.0}]) is None
    assert speed_up([{50: 3.0, 100: 2.0}], [{100: 1.0}]) == SpeedUp((1.0,))
