"""Figures of tuned times show what they were given."""

from __future__ import annotations

import io

import pandas as pd

from stepsearch.tuned_figures import Curves, scores_over_nfe, tuned_times


def test_times_are_drawn_as_their_distance_from_the_untuned() -> None:
    figure = tuned_times([999, 499], [989, 509], [1.0, 20.0], [0.5, 20.0])
    shift, losses = figure.axes
    assert shift.lines[1].get_ydata().tolist() == [-10, 10]
    assert [list(line.get_ydata()) for line in losses.lines] == [[1.0, 20.0], [0.5, 20.0]]
    assert losses.get_yscale() == "log"
    assert tuned_times([9], [9], [0.0], [0.0]).axes[1].get_yscale() == "linear"
    figure.savefig(io.BytesIO())


CURVES = Curves(pd.Series({5.0: 3.0, 10.0: 2.0}), pd.Series({5.0: 1.0, 10.0: 0.9}))


def test_each_sampler_has_a_dashed_line_for_its_untuned_times() -> None:
    other = Curves(pd.Series(dtype=float), pd.Series({3.0: 0.5}))
    figure = scores_over_nfe({"energy": {"ddim": CURVES, "heun": other}, "fd": {"ddim": CURVES}})
    energy, fd = figure.axes
    assert [line.get_linestyle() for line in energy.lines] == ["--", "-", "--", "-"]
    assert [list(line.get_ydata()) for line in energy.lines] == [[3, 2], [1, 0.9], [], [0.5]]
    assert [text.get_text() for text in energy.get_legend().get_texts()] == ["ddim", "heun"]
    assert energy.get_ylabel() == "energy (lower is better)"
    assert fd.get_ylabel() == "fd (lower is better)"
    figure.savefig(io.BytesIO())


def test_samplers_beyond_the_colours_have_another_marker() -> None:
    figure = scores_over_nfe({"energy": {f"sampler {number}": CURVES for number in range(14)}})
    (axis,) = figure.axes
    tuned = axis.lines[1::2]
    assert len(tuned) == len(axis.get_legend().get_texts()) == 14
    assert len({(line.get_color(), line.get_marker()) for line in tuned}) == 14
