"""Figures of tuned times show what they were given."""

from __future__ import annotations

import io

import pandas as pd

from stepsearch.tuned_figures import score_over_nfe, tuned_times


def test_times_are_drawn_as_their_distance_from_the_untuned() -> None:
    figure = tuned_times([999, 499], [989, 509], [1.0, 20.0], [0.5, 20.0])
    shift, losses = figure.axes
    assert shift.lines[1].get_ydata().tolist() == [-10, 10]
    assert [list(line.get_ydata()) for line in losses.lines] == [[1.0, 20.0], [0.5, 20.0]]
    assert losses.get_yscale() == "log"
    assert tuned_times([9], [9], [0.0], [0.0]).axes[1].get_yscale() == "linear"
    figure.savefig(io.BytesIO())


def test_each_sampler_has_a_dashed_line_for_its_untuned_times() -> None:
    untuned, best = pd.Series({5.0: 3.0, 10.0: 2.0}), pd.Series({5.0: 1.0, 10.0: 0.9})
    figure = score_over_nfe({"ddim": (untuned, best), "heun": (untuned, best)}, "fd_digits")
    (axis,) = figure.axes
    assert [line.get_linestyle() for line in axis.lines] == ["--", "-", "--", "-"]
    assert [text.get_text() for text in axis.get_legend().get_texts()] == ["ddim", "heun"]
    assert axis.get_ylabel() == "fd_digits (lower is better)"
    figure.savefig(io.BytesIO())
