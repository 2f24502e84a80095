"""Figures of tuned times; the caller saves them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from stepsearch.figures import COLOURS, GREY, STYLE, new_figure


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


def score_over_nfe(
    curves: Mapping[str, tuple[pd.Series[float], ...]], metric: str, most: int = len(COLOURS)
) -> Figure:
    """A score over evaluations an image, from {sampler: (untuned, best)}, each indexed by NFE.

    Untuned is dashed. The first `most` samplers are drawn.
    """
    with mpl.rc_context(STYLE):
        figure, (axis,) = new_figure(6.4, 4.2)
        for (name, (untuned, best)), colour in zip(
            list(curves.items())[:most], COLOURS, strict=False
        ):
            axis.plot(
                untuned.index, untuned, color=colour, linestyle="--", marker="o", markersize=3
            )
            axis.plot(best.index, best, color=colour, marker="o", markersize=4, label=name)
        axis.set_xlabel("evaluations of the network an image (dashed: untuned)")
        axis.set_ylabel(f"{metric} (lower is better)")
        axis.legend(loc="upper right")
    return figure
