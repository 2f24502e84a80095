"""Shifts: r = 0 is untuned to the last bit, and a box less than 1 wide keeps the order."""

from __future__ import annotations

import numpy as np
import pytest

from stepsearch.errors import UserError
from stepsearch.sampling.timetuner.shifts import ShiftedTimes

TRAILING = [999.0, 749.0, 499.0, 249.0]
HEUN = [999.0, 749.0, 749.0, 499.0, 499.0]


@pytest.mark.parametrize("times", [TRAILING, HEUN, [901.0, 0.0]])
def test_no_shift_is_untuned(times: list[float]) -> None:
    assert ShiftedTimes(times, 0, 999).times([0.0] * len(times)).tolist() == times


def test_a_shift_is_a_share_of_the_way_to_the_neighbour() -> None:
    shifted = ShiftedTimes(TRAILING, 0, 999)
    assert shifted.times([0.5, -0.2, 0.0, 1.0]).tolist() == [874, 799, 499, 0]
    assert shifted.times([-0.5, 0, 0, 0])[0] == 999, "there is nothing above the noisiest"
    assert ShiftedTimes(HEUN, 0, 999).times([0, 0.5, 0.5, -0.5, 0]).tolist() == [
        999, 624, 624, 624, 499,
    ]  # fmt: skip


def test_a_slot_without_room_is_not_free() -> None:
    assert ShiftedTimes([900.0, 450.0, 0.0], 0, 999).free == [0, 1]
    assert ShiftedTimes(TRAILING, 0, 999).free == [0, 1, 2, 3]
    assert ShiftedTimes([900.0, 0.0], 0, 999).times([0.2, 0.7])[1] == 0


@pytest.mark.parametrize("times", [TRAILING, [999.0, 990.0, 400.0, 3.0], [999.0, 5.0, 4.0, 3.0]])
def test_any_box_less_than_one_wide_keeps_the_order(times: list[float]) -> None:
    chance = np.random.default_rng(0)
    for low in (-0.9, -0.5, -0.2, 0.0):
        drawn = chance.uniform(low, low + 0.999, size=(200, 4))
        extremes = np.where(chance.random((50, 4)) < 0.5, low, low + 0.999)
        for r in (*drawn, *extremes):
            assert np.all(np.diff(ShiftedTimes(times, 0, 999).times(r)) < 0)


@pytest.mark.parametrize("times", [TRAILING, HEUN])
def test_shifts_are_found_again_from_times(times: list[float]) -> None:
    shifted = ShiftedTimes(times, 0, 1200)
    r = np.linspace(-0.9, 0.9, len(times))
    np.testing.assert_allclose(shifted.shifts(shifted.times(r)), r)
    assert ShiftedTimes([900.0, 0.0], 0, 999).shifts([900, 0]).tolist() == [0, 0]


def test_another_number_of_shifts_is_refused() -> None:
    with pytest.raises(UserError, match=r"^times.r must have 4 numbers, got 3$"):
        ShiftedTimes(TRAILING, 0, 999).times([0, 0, 0])
