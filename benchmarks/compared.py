"""Learning curves of several strategies on the same seeds, set against a baseline's.

The model is log fd = strategy + seed + noise with noise of one size, at each report apart. Three
seeds tell little of a single strategy's spread; all strategies together tell it well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any, Self

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter, StrMethodFormatter
from scipy.stats import t as student

from stepsearch.figures import COLOURS, GREY, STYLE
from stepsearch.search.ranks import spearman
from stepsearch.search.speed_up import SpeedUp, images_to_reach, speed_up

FloatArray = npt.NDArray[np.float64]

BASELINE = "uniform"
GUARD = 0.02
"""How much more off the manifold than the baseline a winner may be, as in a search."""
_DRAWS = 20_000


@dataclass(frozen=True, eq=False)
class Compared:
    """The curves, the strategy that ends best first."""

    dataset: str
    names: tuple[str, ...]
    images_seen: FloatArray
    """At each report."""
    runs: Mapping[str, Sequence[pd.DataFrame]]
    """A table of reports a seed."""
    fd: FloatArray
    """[strategies, seeds, reports]"""
    baseline: str

    @classmethod
    def of(
        cls,
        runs: Mapping[str, Sequence[pd.DataFrame]],
        dataset: str,
        baseline: str = BASELINE,
    ) -> Self:
        """`runs` has the seeds in the same order for all; two strategies and seeds, or more."""
        end = {name: np.mean([rows["fd"].iloc[-1] for rows in of]) for name, of in runs.items()}
        names = tuple(sorted(runs, key=end.__getitem__))
        fd = np.array([[rows["fd"] for rows in runs[name]] for name in names])
        seen = runs[baseline][0]["images_seen"].to_numpy(dtype=np.float64)
        return cls(dataset, names, seen, runs, fd, baseline)

    @property
    def seeds(self) -> int:
        return len(self.runs[self.baseline])

    @property
    def freedom(self) -> int:
        """Degrees of freedom of the noise."""
        return (len(self.names) - 1) * (self.seeds - 1)

    @property
    def effect(self) -> FloatArray:
        """Mean log fd of each strategy, [strategies, reports]."""
        return np.asarray(np.log(self.fd).mean(1))

    @property
    def noise(self) -> FloatArray:
        """Standard deviation of what neither strategy nor seed explains, at each report."""
        log = np.log(self.fd)
        rest = log - log.mean(1, keepdims=True) - log.mean(0) + log.mean((0, 1))
        return np.asarray(np.sqrt((rest**2).sum((0, 1)) / self.freedom))

    @property
    def margin(self) -> FloatArray:
        """Half of the 95 % interval of an effect; of a difference it is sqrt(2) times as much."""
        quantile = float(student.ppf(0.975, self.freedom))
        return np.asarray(quantile * self.noise / np.sqrt(self.seeds))

    def gap(self, name: str, side: int = 0) -> float:
        """How much worse than uniform it ends, 0.1 is 10 %; `side` -1 and 1: the 95 % interval."""
        if name == self.baseline:
            return 0.0
        log = self.effect[:, -1] + side * np.sqrt(2) * self.margin[-1]
        mean = self.effect[self.names.index(self.baseline), -1]
        return float(np.expm1(log[self.names.index(name)] - mean))

    def total(self, name: str, metric: str) -> float:
        """A metric summed over the reports, the mean of the seeds."""
        return float(np.mean([rows[metric].sum() for rows in self.runs[name]]))

    def last(self, name: str, metric: str) -> float:
        """A metric at the end, the mean of the seeds."""
        return float(np.mean([rows[metric].iloc[-1] for rows in self.runs[name]]))

    def within_guard(self, name: str) -> bool:
        excess = self.last(name, "off_manifold") - self.last(self.baseline, "off_manifold")
        return excess <= GUARD

    def speed_up(self, name: str) -> SpeedUp:
        """Uniform's images over the strategy's, to the quality with which uniform ends."""
        found = speed_up(self._curves(self.baseline), self._curves(name))
        assert found is not None  # there are several reports
        return found

    def caught_up(self, name: str) -> float:
        """The share of the images after which uniform is as good as the strategy in the end.

        The median of the seeds; 1 where it never is.
        """
        budget = self.images_seen[-1]
        pairs = zip(self._curves(self.baseline), self._curves(name), strict=True)
        needed = [images_to_reach(uniform, curve[int(budget)]) for uniform, curve in pairs]
        return float(np.median([n or budget for n in needed]) / budget)

    def best(self, seed: int = 0) -> dict[str, float]:
        """P(best) among the strategies within the guard, with the noise's own uncertainty."""
        random = np.random.default_rng(seed)
        inside = [i for i, name in enumerate(self.names) if self.within_guard(name)]
        spread = self.noise[-1] * np.sqrt(self.freedom / random.chisquare(self.freedom, _DRAWS))
        shape = (_DRAWS, len(inside))
        drawn = self.effect[inside, -1] + random.normal(size=shape) * (
            spread[:, None] / np.sqrt(self.seeds)
        )
        wins = np.bincount(drawn.argmin(1), minlength=len(inside)) / _DRAWS
        return {self.names[i]: float(share) for i, share in zip(inside, wins, strict=True)}

    def between_seeds(self) -> float:
        """The mean rank correlation of the final order on one seed with that on another."""
        ends, n = self.fd[:, :, -1].T, self.seeds
        pairs = [(ends[a], ends[b]) for a in range(n) for b in range(a)]
        return float(np.mean([spearman(list(a), list(b)) or 0.0 for a, b in pairs]))

    def _curves(self, name: str) -> list[dict[int, float]]:
        at = self.fd[self.names.index(name)]
        return [dict(zip(self.images_seen.astype(int), values, strict=True)) for values in at]


def show(compared: Compared) -> dict[str, Any]:
    """Print a line a strategy, best first; what stands there."""
    chances = compared.best()
    cost = {n: compared.total(n, "train_cpu_s") for n in compared.names}
    print(
        f"fd_{compared.dataset}, {compared.seeds} seeds; noise of a seed {compared.noise[-1]:.1%};"
        f" rank correlation of one seed with another {compared.between_seeds():.2f}"
    )
    print(
        f"{'':20s}{'fd (range)':>20s}{'to uniform [95 %]':>24s}{'speed-up in images':>36s}"
        f"{'in CPU':>8s}{'uniform':>9s}{'CPU-s':>7s}{'off':>7s}{'pixel':>7s}{'P(best)':>9s}"
    )
    found: dict[str, Any] = {}
    for i, name in enumerate(compared.names):
        end = compared.fd[i, :, -1]
        low, middle, high = (compared.gap(name, side) for side in (-1, 0, 1))
        gained, behind = compared.speed_up(name), compared.caught_up(name)
        price = cost[name] / cost[BASELINE]
        each = 1000 * cost[name] / compared.images_seen[-1]
        off, pixel = (compared.last(name, metric) for metric in ("off_manifold", "pixel_fd"))
        chance = f"{chances[name]:.2f}" if name in chances else "guard"
        in_cpu = f"{gained.median / price:.2f}x" if gained.median else "-"
        print(
            f"{name:20s}{f'{end.mean():.2f} ({end.min():.2f}-{end.max():.2f})':>20s}"
            f"{f'{middle:+.0%} [{low:+.0%}, {high:+.0%}]':>24s}{gained!s:>36s}{in_cpu:>8s}"
            f"{behind:9.0%}{each:7.2f}{off:7.3f}{pixel:7.3f}{chance:>9s}"
        )
        found[name] = {
            "fd": [round(float(value), 4) for value in end],
            "to_uniform": [round(value, 3) for value in (low, middle, high)],
            "speed_up": [ratio and round(ratio, 3) for ratio in gained.ratios],
            "uniform_as_good_at": round(behind, 3),
            "cpu_s_per_kimg": round(float(each), 3),
            "off_manifold": round(off, 4),
            "pixel_fd": round(pixel, 4),
            "p_best": round(chances[name], 4) if name in chances else None,
        }
    return {"seeds": compared.seeds, "noise": round(float(compared.noise[-1]), 4)} | found


def picture(compared: Compared, path: Path) -> None:
    """A panel a strategy, best first: its mean with a 95 % band beside uniform's."""
    others = [name for name in compared.names if name != BASELINE]
    columns, rows = 4, ceil(len(others) / 4)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(10, 0.7 + 2 * rows), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
        for axis in axes.flat[len(others) :]:
            axis.set_visible(False)
        for axis, name in zip(axes.flat, others, strict=False):
            _curve(axis, compared, BASELINE, GREY)
            _curve(axis, compared, name, COLOURS[0 if compared.within_guard(name) else 1])
            axis.set_title(f"{name}  {compared.gap(name):+.0%}")
        axis = axes[0, 0]
        axis.set_yscale("log")
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axis.yaxis.set_minor_formatter(NullFormatter())
        axis.xaxis.set_major_formatter(EngFormatter(sep=""))
        figure.supxlabel("training images seen (grey: uniform; orange: beyond the guard)")
        figure.supylabel(f"fd_{compared.dataset} (lower is better)")
        figure.savefig(path)


def _curve(axis: Axes, compared: Compared, name: str, colour: str) -> None:
    middle, seen = compared.effect[compared.names.index(name)], compared.images_seen
    low, high = (np.exp(middle + side * compared.margin) for side in (-1, 1))
    axis.fill_between(seen, low, high, color=colour, alpha=0.25, linewidth=0)
    axis.plot(seen, np.exp(middle), color=colour)
