from __future__ import annotations

import numpy as np
import pytest

from stepsearch.terminal import chart, strategy_chart


def test_a_step_is_drawn_with_its_numbers_and_a_reference_line() -> None:
    p = np.where(np.arange(1000) < 500, 1.5, 0.5)
    assert chart(p, "density", 1.0, width=29, height=3).splitlines() == [
        "        density",
        "   1.5 ┤██████████",
        "     1 ┤██████████╌╌╌╌╌╌╌╌╌╌",
        "       │████████████████████",
        "     0 └────────────────────",
        "     t  0    250  500    999",
    ]


def test_a_ramp_uses_eighths_of_a_row() -> None:
    lines = chart(np.arange(1.0, 11.0), width=19, height=1).splitlines()
    assert lines[0] == "    10 ┤▁▂▂▃▄▅▆▆▇█"


@pytest.mark.parametrize("timesteps", [1, 5, 50, 1000, 10_000])
@pytest.mark.parametrize("width", [40, 80, 200])
def test_no_line_is_wider_than_asked(timesteps: int, width: int) -> None:
    text = strategy_chart(np.full(timesteps, 1 / timesteps), np.ones(timesteps), width=width)
    assert max(map(len, text.splitlines())) <= width


def test_down_sampling_keeps_the_mean() -> None:
    values = np.tile([0.0, 2.0], 71 * 50)
    lines = chart(values, width=80, height=4).splitlines()
    assert lines[0].startswith("     1 ┤████")


def test_small_values_stay_visible_and_zero_stays_empty() -> None:
    lines = chart(np.array([0.0, 1e-9, 1.0, 0.0] * 5), width=29, height=2).splitlines()
    assert lines[1] == "       │ ▁█ " + " ▁█ " * 3 + " ▁█"


def test_nothing_but_zeros_is_a_flat_chart() -> None:
    assert "█" not in chart(np.zeros(100))


def test_both_parts_of_a_strategy_have_a_title() -> None:
    text = strategy_chart(np.full(10, 0.1), np.full(10, 2.0))
    assert "density p (times uniform)" in text
    assert "weight w" in text
