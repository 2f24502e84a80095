"""Figures of timestep strategies side by side, and of SpeeD's areas; the caller saves them."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from stepsearch.figures import COLOURS, GREY, STYLE, FloatArray

_COLUMNS = 4
_AREA_COLOURS = ("#cfe3f1", "#f6dcc6", "#e6e6e6")
_NAMES = ("acceleration", "deceleration", "convergence")


def gallery(strategies: Mapping[str, tuple[FloatArray, FloatArray]], title: str = "") -> Figure:
    """T p and w over t / T of every strategy, {name: (p, w)}; w should have a median of 1."""
    rows = -(-len(strategies) // _COLUMNS)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(11, 1.75 * rows + 0.9), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots(rows, _COLUMNS, sharex=True, sharey=True, squeeze=False)
        grid = list(axes.flat)
        for axis in grid:
            axis.set_axis_off()
        for axis, (name, (p, w)) in zip(grid, strategies.items(), strict=False):
            axis.set_axis_on()
            share = np.arange(len(p)) / len(p)
            axis.axhline(1, color=GREY, linestyle="--", linewidth=0.8)
            axis.fill_between(share, 1e-9, len(p) * p, color=COLOURS[0], alpha=0.25, linewidth=0)
            axis.plot(share, len(p) * p, color=COLOURS[0], linewidth=1.4, label="density T p")
            axis.plot(share, w, color=COLOURS[1], linewidth=1.4, label="weight w (median 1)")
            axis.set(title=name, yscale="log", ylim=(0.01, 100), xlim=(0, 1))
        for axis in grid[-_COLUMNS:]:
            axis.set_xlabel("t / T (0 = least noise)")
        handles, labels = grid[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper right", ncols=2)
        figure.suptitle(title, x=0.01, ha="left", fontsize=11)
    return figure


def areas_figure(
    panels: Mapping[str, Mapping[str, FloatArray]], edges: tuple[int, int], title: str = ""
) -> Figure:
    """Curves over t, {panel: {curve: values}}, on the three areas that `edges` part."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(6.8, 1.9 * len(panels) + 0.8), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
        T = max(len(values) for curves in panels.values() for values in curves.values())
        spans = list(zip((0, *edges), (*edges, T), _AREA_COLOURS, _NAMES, strict=True))
        for axis, (label, curves) in zip(axes, panels.items(), strict=True):
            for first, last, colour, _ in spans:
                axis.axvspan(first, last, color=colour, linewidth=0, zorder=0)
            for (name, values), colour, style in zip(curves.items(), COLOURS, "-:", strict=False):
                axis.plot(values, color=colour, linestyle=style, label=name)
            tops = [values.max() for values in curves.values()]
            if max(tops) > 50 * min(tops):
                axis.set(ylabel=label, xlim=(0, T), yscale="log")
            else:
                axis.set(ylabel=label, xlim=(0, T), ylim=(0, None))
            axis.legend(loc="best")
        for first, last, _, name in spans:
            centre = (first + last) / 2
            axes[0].text(centre, 1.02, name, ha="center", transform=axes[0].get_xaxis_transform())
        axes[-1].set_xlabel("timestep t (0 = least noise)")
        figure.suptitle(title, x=0.01, ha="left", fontsize=11)
    return figure
