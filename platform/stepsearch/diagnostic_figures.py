"""Figures that check a training against what its strategy promises; the caller saves them."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from stepsearch.figures import COLOURS, STYLE, FloatArray, new_figure


def draws_by_log_snr(
    log_snr: FloatArray, count: FloatArray, declared: FloatArray, *, effective: float
) -> Figure:
    """How many images were drawn in each bin of log-SNR, beside what the density promises.

    `log_snr` holds the centres of equally wide bins, `declared` the expected shares; its whiskers
    are two standard deviations of independent draws. Stratified ones keep closer to it.
    """
    n, width = count.sum(), float(np.diff(log_snr).mean())
    spread = 2 * np.sqrt(declared * (1 - declared) / n)
    with mpl.rc_context(STYLE):
        figure, (axis,) = new_figure(6.4, 3.8)
        axis.bar(log_snr, count / n, 0.9 * width, color=COLOURS[5], label="drawn")
        axis.errorbar(
            log_snr,
            declared,
            spread,
            color="black",
            fmt=".",
            markersize=4,
            linewidth=1,
            label="declared density",
        )
        axis.set_title(f"{n:,.0f} images, effectively {effective:.0%} of them by their weights")
        axis.set_xlabel("log-SNR (low = noise)")
        axis.set_ylabel("share of the draws")
        axis.legend()
    return figure
