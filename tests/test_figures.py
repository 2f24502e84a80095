"""Figures are drawn without warnings (which are errors here) and show what they were given."""

from __future__ import annotations

import io

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from PIL import Image

from stepsearch.figures import (
    FloatArray,
    density_over_training,
    loss_by_log_snr,
    quality_curves,
    strategy_curves,
)

T = 100
UNIFORM = np.full(T, 1 / T)
LOG_SNR = np.linspace(9, -9, T)


def rendered(figure: Figure) -> Image.Image:
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return Image.open(file)


def drawn(line: Line2D) -> FloatArray:
    return np.asarray(line.get_ydata(), dtype=np.float64)


def test_the_uniform_strategy_lies_on_the_reference_line() -> None:
    figure = strategy_curves(UNIFORM, np.ones(T), title="uniform")
    for axis in figure.axes:
        reference, curve = axis.lines
        np.testing.assert_allclose(drawn(curve), 1)
        np.testing.assert_array_equal(drawn(reference), [1, 1])
        assert axis.get_ylim()[0] == 0
    assert figure.axes[0].get_title(loc="left") == "uniform"
    assert rendered(figure).width > 500


def test_the_last_panel_is_density_times_weight() -> None:
    p = np.linspace(1, 3, T) / np.linspace(1, 3, T).sum()
    w = np.linspace(2, 1, T)
    curve = strategy_curves(p, w).axes[2].lines[1]
    np.testing.assert_allclose(drawn(curve), T * p * w)


def test_over_log_snr_noise_grows_to_the_right_as_over_t() -> None:
    axis = strategy_curves(UNIFORM, np.ones(T), log_snr=LOG_SNR).axes[-1]
    assert axis.xaxis_inverted()
    assert "log-SNR" in axis.get_xlabel()


def test_weights_over_many_decades_get_a_logarithmic_axis() -> None:
    figure = strategy_curves(UNIFORM, np.logspace(-4, 0, T))
    assert [axis.get_yscale() for axis in figure.axes] == ["linear", "log", "log"]
    low, high = figure.axes[1].get_ylim()
    assert low < 1e-4 < 1 < high
    assert low > 1e-6
    assert rendered(figure)


def test_the_loss_map_has_a_cell_for_each_bin_and_leaves_out_what_was_not_drawn() -> None:
    loss = np.linspace(0.1, 1, 60).reshape(3, 20)
    loss[0, 5] = np.nan
    figure = loss_by_log_snr([1000, 2000, 4000], np.linspace(-9, 9, 20), loss)
    (mesh,) = figure.axes[0].collections
    cells = mesh.get_array()
    assert isinstance(cells, np.ma.MaskedArray)
    assert cells.shape == (20, 3)
    assert cells.count() == 59
    assert rendered(figure)


def test_a_loss_map_without_any_loss_is_empty_but_drawn() -> None:
    loss = np.full((2, 20), np.nan)
    assert rendered(loss_by_log_snr([10, 20], np.linspace(-9, 9, 20), loss))


def test_the_density_map_has_a_cell_for_each_row_and_part_of_the_timesteps() -> None:
    density = np.linspace(0, 2, 30).reshape(3, 10)
    figure = density_over_training([100, 200, 400], density, 1000)
    (mesh,) = figure.axes[0].collections
    assert mesh.get_array().shape == (10, 3)
    assert figure.axes[0].get_ylim() == (0, 1000)
    assert rendered(figure)


def test_quality_curves_show_the_baseline_and_name_only_the_best_others() -> None:
    seen = [1000, 10_000, 100_000]
    curves = {f"trial {n}": (seen, [30.0, 9.0, 2.0 + n]) for n in range(9)}
    curves["uniform"] = (seen, [30.0, 10.0, 5.0])
    figure = quality_curves(curves, metric="fd_digits", baseline="uniform")
    axis = figure.axes[0]
    legend = axis.get_legend()
    assert legend is not None
    names = [text.get_text() for text in legend.get_texts()]
    assert names == ["uniform", *(f"trial {n}" for n in range(6))]
    assert len(axis.lines) == 9 + 2  # the baseline has a line at its last value
    assert (axis.get_xscale(), axis.get_yscale()) == ("log", "log")
    assert rendered(figure)


def test_quality_that_is_to_be_maximised_is_ordered_the_other_way() -> None:
    curves = {name: ([1, 2], [0.1, value]) for name, value in [("low", 0.2), ("high", 0.9)]}
    axis = quality_curves(curves, metric="recall", direction="maximize").axes[0]
    assert [line.get_label() for line in axis.lines] == ["high", "low"]
    assert "higher is better" in axis.get_ylabel()


def test_no_curves_are_an_error() -> None:
    with pytest.raises(ValueError, match="curves must hold at least one curve"):
        quality_curves({}, metric="fd_digits")
