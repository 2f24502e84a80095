"""Figures of strategies, losses and quality; the caller saves them.

Colours are Okabe and Ito's, which colour-blind readers can tell apart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter, StrMethodFormatter

FloatArray = npt.NDArray[np.float64]
Curve = tuple[Sequence[float], Sequence[float]]
Direction = Literal["minimize", "maximize"]

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
GREY = "#8a8a8a"
PALE = "#d0d0d0"
STYLE: Any = {  # Any: matplotlib's stubs list the keys one by one
    "axes.axisbelow": True,
    "axes.edgecolor": GREY,
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 11,
    "grid.color": "#e8e8e8",
    "grid.linewidth": 0.6,
    "legend.fontsize": 9,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "savefig.dpi": 120,
}


def strategy_curves(
    p: FloatArray, w: FloatArray, *, log_snr: FloatArray | None = None, title: str = ""
) -> Figure:
    """Density p, weight w and their product over the timesteps (or over log-SNR); all length T.

    The density is drawn as T p, so that uniform is 1 everywhere; the product T p w says how much
    a timestep counts in the expected loss.
    """
    x = np.arange(len(p)) if log_snr is None else log_snr
    density = len(p) * p
    panels = {"density\n(times uniform)": density, "weight": w, "density × weight": density * w}
    with mpl.rc_context(STYLE):
        figure, axes = new_figure(6.4, 5.6, rows=3)
        for axis, (label, y), colour in zip(axes, panels.items(), COLOURS, strict=False):
            axis.axhline(1, color=GREY, linestyle="--", linewidth=1, label="uniform")
            axis.plot(x, y, color=colour)
            axis.set_ylabel(label)
            _scale(axis, "y", y, decades=2)
            if axis.get_yscale() == "linear":
                axis.set_ylim(0, 1.08 * max(1, y.max()))
        axes[0].set_title(title)
        axes[0].legend(loc="lower right", bbox_to_anchor=(1, 1))
        axes[-1].set_xlabel(
            "timestep t (0 = least noise)" if log_snr is None else "log-SNR (low = noise)"
        )
        if log_snr is not None:
            axes[-1].invert_xaxis()  # noise grows to the right, as it does over t
        figure.align_ylabels()
    return figure


def loss_by_log_snr(
    images_seen: Sequence[int], log_snr: FloatArray, loss: FloatArray, *, title: str = ""
) -> Figure:
    """Heat map of the mean loss over training, [len(images_seen), len(log_snr)].

    A row of `loss` is the mean since the row before it, NaN (drawn grey) where no timestep was
    drawn; `log_snr` holds the bins' centres.
    """
    return by_log_snr(images_seen, log_snr, loss, label="mean squared error", title=title)


def by_log_snr(
    images_seen: Sequence[int],
    log_snr: FloatArray,
    table: FloatArray,
    *,
    label: str,
    title: str = "",
) -> Figure:
    """Heat map over training of what has a value at each noise level; NaN is drawn grey."""
    values = np.ma.masked_invalid(np.asarray(table, dtype=float).T)
    norm = LogNorm() if values.count() and values.min() > 0 else None
    with mpl.rc_context(STYLE):
        figure, (axis,) = new_figure(6.4, 3.8, right=1.0)
        across = np.array([0, *images_seen], dtype=float)
        mesh = axis.pcolormesh(across, _edges(log_snr), values, norm=norm, cmap="cividis")
        axis.grid(visible=False)
        axis.set_facecolor(PALE)
        axis.set_title(title)
        axis.set_ylabel("log-SNR (low = noise)")
        _count_images(axis)
        beside = axis.inset_axes((1.02, 0, 0.04, 1))
        bar = figure.colorbar(mesh, cax=beside, label=label)
        if norm is not None:
            _scale(bar.ax, "y", values.compressed())
    return figure


def density_over_training(
    images_seen: Sequence[int], density: FloatArray, T: int, *, title: str = ""
) -> Figure:
    """Heat map of T p over training, [len(images_seen), parts of the timesteps].

    A row is p at that moment, drawn over the time since the row before it; 1 is uniform.
    """
    values = np.asarray(density, dtype=float).T
    with mpl.rc_context(STYLE):
        figure, (axis,) = new_figure(6.4, 3.8, right=1.0)
        across = np.array([0, *images_seen], dtype=float)
        edges = np.linspace(0, T, len(values) + 1)
        mesh = axis.pcolormesh(across, edges, values, cmap="cividis", vmin=0)
        axis.grid(visible=False)
        axis.set_title(title)
        axis.set_ylabel("timestep t (0 = least noise)")
        _count_images(axis)
        beside = axis.inset_axes((1.02, 0, 0.04, 1))
        figure.colorbar(mesh, cax=beside, label="density (times uniform)")
    return figure


def quality_curves(
    curves: Mapping[str, Curve],
    *,
    metric: str,
    baseline: str | None = None,
    direction: Direction = "minimize",
    title: str = "",
) -> Figure:
    """Quality against images seen, from {label: (images_seen, values)}.

    The baseline is dashed, and a thin line continues its last value: a curve that reaches this
    line has caught up. Beyond six others, only the best six have a colour and a name.
    """
    if not curves:
        raise ValueError("curves must hold at least one curve, got none")
    others = _best_first({k: v for k, v in curves.items() if k != baseline}, direction)
    with mpl.rc_context(STYLE):
        figure, (axis,) = new_figure(6.4, 4.2)
        for label in others[len(COLOURS) :]:
            axis.plot(*curves[label], color=PALE, linewidth=1)
        if baseline is not None and baseline in curves:
            axis.plot(*curves[baseline], color="black", linestyle="--", label=baseline)
            axis.axhline(curves[baseline][1][-1], color="black", linewidth=0.6, alpha=0.6)
        for label, colour in zip(others, COLOURS, strict=False):
            axis.plot(*curves[label], color=colour, marker="o", markersize=3, label=label)
        _scale(axis, "x", np.concatenate([seen for seen, _ in curves.values()]))
        _scale(axis, "y", np.concatenate([values for _, values in curves.values()]))
        better = "lower" if direction == "minimize" else "higher"
        axis.set_ylabel(f"{metric} ({better} is better)")
        axis.set_title(title)
        _count_images(axis)
        # matplotlib's "best" place takes seconds to find among a thousand curves.
        axis.legend(loc="upper right" if direction == "minimize" else "lower right")
    return figure


def new_figure(
    width: float, height: float, rows: int = 1, right: float = 0.2
) -> tuple[Figure, list[Axes]]:
    """Axes one above the other; everything in inches, `right` is the margin there.

    The margins are fixed because a layout engine needs as long as the drawing itself, and there
    are two figures a trial.
    """
    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    figure.subplots_adjust(
        left=0.9 / width,
        right=1 - right / width,
        bottom=0.5 / height,
        top=1 - 0.3 / height,
        hspace=0.15,
    )
    return figure, list(figure.subplots(rows, 1, sharex=True, squeeze=False)[:, 0])


def _scale(axis: Axes, which: Literal["x", "y"], values: Any, decades: float = 1) -> None:
    """A logarithmic axis for positive values that span more than `decades`, else a linear one."""
    low, high = np.nanmin(values), np.nanmax(values)
    if not (low > 0 and high > 10**decades * low):
        return
    axis.set(**{f"{which}scale": "log"})
    ticks = (1, 2, 5) if high < 300 * low else (1,)
    line = axis.xaxis if which == "x" else axis.yaxis
    line.set_major_locator(LogLocator(subs=ticks))
    line.set_major_formatter(StrMethodFormatter("{x:g}"))
    line.set_minor_formatter(NullFormatter())


def _count_images(axis: Axes) -> None:
    axis.set_xlabel("training images seen")
    axis.xaxis.set_major_formatter(EngFormatter(sep=""))


def _edges(centres: FloatArray) -> FloatArray:
    middles = (centres[1:] + centres[:-1]) / 2
    return np.concatenate(
        [[2 * centres[0] - middles[0]], middles, [2 * centres[-1] - middles[-1]]]
    )


def _best_first(curves: Mapping[str, Curve], direction: Direction) -> list[str]:
    return sorted(curves, key=lambda label: curves[label][1][-1], reverse=direction == "maximize")
