"""Figures of tuned times; the caller saves them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from stepsearch.figures import COLOURS, GREY, STYLE, new_figure

_MARKERS = "osD^vP*X"


class Curves(NamedTuple):
    """A score of one sampler, each indexed by its evaluations an image."""

    untuned: pd.Series[float]
    best: pd.Series[float]


def tuned_times(
    t: Sequence[float],
    tau: Sequence[float],
    loss_untuned: Sequence[float],
    loss: Sequence[float],
) -> Figure:
    """tau - t against t, and the loss of eq. 9 in each slot before and after; all length S."""
    with mpl.rc_context(STYLE):
        figure, (shift, losses) = new_figure(6.4, 5.0, rows=2)
        shift.axhline(0, color=GREY, linestyle="--", linewidth=1, label="untuned")
        moved = np.asarray(tau) - np.asarray(t)
        shift.plot(t, moved, color=COLOURS[0], marker="o", markersize=4, label="tuned")
        shift.set_ylabel("τ − t")
        shift.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2)
        losses.plot(t, loss_untuned, color=GREY, linestyle="--", marker="o", markersize=3)
        losses.plot(t, loss, color=COLOURS[0], marker="o", markersize=4)
        if min(*loss_untuned, *loss) > 0:
            losses.set_yscale("log")
        losses.set_ylabel("loss of the step (eq. 9)")
        losses.set_xlabel("untuned time t (0 = least noise)")
        losses.invert_xaxis()  # sampling goes from left to right
        figure.align_ylabels()
    return figure


def scores_over_nfe(panels: Mapping[str, Mapping[str, Curves]]) -> Figure:
    """Scores over evaluations an image, one above the other, from {score: {sampler: curves}}.

    The untuned times are dashed. Where there are more samplers than colours, markers tell those of
    one colour apart.
    """
    with mpl.rc_context(STYLE):
        longest = max(len(name) for samplers in panels.values() for name in samplers)
        right = 0.8 + 0.075 * longest
        figure, axes = new_figure(
            6.2 + right, 0.8 + 2.6 * len(panels), rows=len(panels), right=right
        )
        for axis, (score, samplers) in zip(axes, panels.items(), strict=True):
            for number, (name, curves) in enumerate(samplers.items()):
                turn, colour = divmod(number, len(COLOURS))
                how: Any = {
                    "color": COLOURS[colour],
                    "marker": _MARKERS[turn % len(_MARKERS)],
                    "markersize": 4,
                }
                axis.plot(curves.untuned.index, curves.untuned, linestyle="--", **how)
                axis.plot(curves.best.index, curves.best, label=name, **how)
            axis.set_ylabel(f"{score} (lower is better)")
        axes[-1].set_xlabel("evaluations of the network an image (dashed: untuned)")
        axes[0].legend(loc="upper left", bbox_to_anchor=(1.01, 1), borderaxespad=0)
        figure.align_ylabels()
    return figure
