"""How many images a trial needs for the quality at which the baseline ends."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

Curve = Mapping[int, float]  # images_seen: value


def images_to_reach(curve: Curve, quality: float, *, minimize: bool = True) -> float | None:
    """`images_seen` at which a curve first is as good as `quality`; None if it never is.

    Linear between two reports. A trial that is there at its first report has needed at most so
    many images: that number is returned, which understates its speed-up.
    """
    sign = 1 if minimize else -1
    before: tuple[int, float] | None = None
    for images_seen, value in sorted(curve.items()):
        if sign * value <= sign * quality:
            if before is None:
                return float(images_seen)
            share = (before[1] - quality) / (before[1] - value)
            return before[0] + share * (images_seen - before[0])
        before = images_seen, value
    return None


@dataclass(frozen=True)
class SpeedUp:
    """The baseline's images over the trial's, one ratio a paired seed; None: never got there."""

    ratios: tuple[float | None, ...]

    @property
    def median(self) -> float | None:
        """The median; a seed that never got there is the worst. None if it is one of those."""
        worst_first = sorted(ratio or 0.0 for ratio in self.ratios)
        return statistics.median_low(worst_first) or None

    def __str__(self) -> str:
        if self.median is None:
            return "not reached"
        if len(self.ratios) == 1:
            return f"{self.median:.2f}x (1 seed)"
        low = min(ratio or 0.0 for ratio in self.ratios)
        high = max(ratio or 0.0 for ratio in self.ratios)
        least = f"{low:.2f}" if low else "not reached"
        return f"{self.median:.2f}x ({least}..{high:.2f}, {len(self.ratios)} seeds)"


def speed_up(
    baseline: Sequence[Curve], trial: Sequence[Curve], *, minimize: bool = True
) -> SpeedUp | None:
    """Compare the curves of a trial with the baseline's, seed by seed; None without any pair.

    One report is no curve: it says how good a trial is and nothing of its speed. Both sequences
    are in the order of the seeds; a baseline curve ends at its whole budget.
    """
    ratios = []
    for reference, curve in zip(baseline, trial, strict=False):
        if len(reference) < 2 or not curve:
            continue
        budget = max(reference)
        images = images_to_reach(curve, reference[budget], minimize=minimize)
        ratios.append(None if images is None else budget / images)
    return SpeedUp(tuple(ratios)) if ratios else None
