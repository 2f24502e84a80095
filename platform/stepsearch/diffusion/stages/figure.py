"""One figure that shows why the boundaries lie where they do."""

from __future__ import annotations

from itertools import pairwise

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from stepsearch.diffusion.stages.algorithms import TAUS
from stepsearch.diffusion.stages.baselines import Boundaries
from stepsearch.diffusion.stages.find import ALGORITHM_1, ALGORITHM_2, Found
from stepsearch.diffusion.stages.similarity import NODES
from stepsearch.figures import COLOURS, GREY, STYLE
from stepsearch.strategies.base import FloatArray

_BINS = 50


def stages_figure(found: Found, *, title: str = "") -> Figure:
    """Similarity to both ends with its running means and alpha, all methods' stages below; right,
    the similarity of all pairs of times with the stages as squares."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(10.4, 5.4))
        FigureCanvasAgg(figure)
        grid = figure.add_gridspec(2, 2, height_ratios=(3, 1.5), width_ratios=(1.35, 1))
        grid.update(left=0.07, right=0.94, bottom=0.1, top=0.84, hspace=0.1, wspace=0.14)
        curves = figure.add_subplot(grid[0, 0])
        _draw_ends(curves, found)
        figure.suptitle(title, x=0.07, y=0.97, ha="left", fontsize=11)
        _draw_methods(figure.add_subplot(grid[1, 0], sharex=curves), found)
        _draw_pairs(figure.add_subplot(grid[:, 1]), found)
    return figure


def methods(found: Found) -> dict[str, Boundaries]:
    """All boundaries by the names of their methods, the answer first."""
    name = ALGORITHM_1 if found.config.n == 3 else ALGORITHM_2
    return {name: found.boundaries} | found.others


def _draw_ends(axis: Axes, found: Found) -> None:
    ends, means = found.ends, found.means
    pairs = (
        ("to the data's end", ends.to_data, means.from_data, "its mean from t = 0"),
        ("to the noise's end", ends.to_noise, means.from_noise, "its mean from t = 1"),
    )
    for (end, samples, running, mean), colour in zip(pairs, COLOURS, strict=False):
        centres, binned = _binned(ends.t, samples)
        axis.plot(centres, binned, ".", color=colour, markersize=4, label=end)
        axis.plot(TAUS, running, color=colour, label=mean)
    axis.axhline(found.config.alpha, color=GREY, linestyle="--", linewidth=1, label="alpha")
    for t in found.boundaries:
        axis.axvline(t, color="black", linewidth=1)
        axis.annotate(f"{t:.3f}", (t, 0.02), (3, 0), textcoords="offset points", fontsize=9)
    axis.set_xlim(0, 1)
    axis.set_ylim(0, 1.03)
    axis.set_ylabel("similarity of the denoiser")
    axis.tick_params(labelbottom=False)
    axis.legend(loc="lower left", bbox_to_anchor=(-0.02, 1), ncols=3, columnspacing=1.2)


def _draw_methods(axis: Axes, found: Found) -> None:
    """A bar a method, cut at its boundaries."""
    rows = methods(found)
    for row, boundaries in enumerate(rows.values()):
        edges = [0.0, *boundaries, 1.0]
        for stage, (begin, end) in enumerate(pairwise(edges)):
            axis.barh(row, end - begin, left=begin, height=0.8, color=COLOURS[stage], alpha=0.45)
    for row, name in enumerate(rows):
        axis.annotate(name, (0.01, row), va="center", fontsize=8.5)
    axis.set_ylim(len(rows) - 0.5, -0.5)
    axis.set_yticks([])
    axis.grid(visible=False)
    axis.set_xlabel("t of the VP kernel (0 = data, 1 = noise)")


def _draw_pairs(axis: Axes, found: Found) -> None:
    edges = np.concatenate([[0.0], NODES[:-1] + 0.025, [1.025]])
    mesh = axis.pcolormesh(edges, edges, found.grid.similarity, vmin=0, vmax=1, cmap="cividis")
    cuts = [0.0, *found.boundaries, 1.025]
    for begin, end in pairwise(cuts):
        x, y = [begin, end, end, begin, begin], [begin, begin, end, end, begin]
        axis.plot(x, y, color="white", linewidth=1.6, clip_on=False)
    axis.set_aspect("equal")
    axis.grid(visible=False)
    axis.set_title("between two times")
    axis.set_xlabel("t")
    axis.figure.colorbar(mesh, ax=axis, fraction=0.045, pad=0.03)


def _binned(t: FloatArray, values: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Centres and means of equal parts of [0, 1] that hold samples."""
    part = np.minimum((t * _BINS).astype(int), _BINS - 1)
    count = np.bincount(part, minlength=_BINS)
    with np.errstate(invalid="ignore"):
        means = np.bincount(part, values, minlength=_BINS) / count
    return (np.arange(_BINS) + 0.5)[count > 0] / _BINS, means[count > 0]
