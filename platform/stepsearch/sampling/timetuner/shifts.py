"""Times as shifts of the untuned ones: numbers that a black-box search can propose."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np

from stepsearch.errors import UserError
from stepsearch.strategies.base import FloatArray

Gradient = Literal["sequential", "parallel", "end_to_end"]
"""By which gradient shifts were found: of eq. 9, of eq. 11, or through all steps."""
GRADIENTS: tuple[Gradient, ...] = get_args(Gradient)


class ShiftedTimes:
    """tau_k = t_k - r_k (t_k - t_(k+1)) for r_k >= 0, and t_k - r_k (t_(k-1) - t_k) for r_k < 0.

    r = 0 is untuned, exactly; 1 is where the next evaluation is, -1 where the one before is. A
    box of r less than 1 wide that holds 0 keeps tau in the order of t: two neighbours that move
    towards each other stay apart. Evaluations at one and the same t (Heun's corrector and the
    predictor after it) have the same neighbours, and no order.
    """

    def __init__(self, times: Sequence[float], end: float, top: float) -> None:
        """`times` [S] fall; `end` is the least noisy time there is, `top` the noisiest."""
        t = np.asarray(times, dtype=np.float64)
        self.points: FloatArray = np.unique(np.append(t, [min(end, t[-1]), max(top, t[0])]))
        """The different times and, around them, the ends, rising."""
        self.index = np.searchsorted(self.points, t)
        """[S], which of the points each time is."""
        self.t, self.end, self.top = t, end, top
        last = len(self.points) - 1
        self.down: FloatArray = t - self.points[np.maximum(self.index - 1, 0)]
        """[S], how far it is to the next evaluation's time."""
        self.up: FloatArray = self.points[np.minimum(self.index + 1, last)] - t
        """[S], how far it is to the time of the one before."""

    @property
    def free(self) -> list[int]:
        """The slots that can be told an earlier time."""
        return [int(k) for k in np.flatnonzero(self.down > 0)]

    def times(self, r: Sequence[float]) -> FloatArray:
        """tau [S]. Raises UserError for another number of shifts."""
        if len(r) != len(self.t):
            raise UserError(f"times.r must have {len(self.t)} numbers, got {len(r)}")
        shifts = np.asarray(r, dtype=np.float64)
        tau: FloatArray = self.t - shifts * np.where(shifts >= 0, self.down, self.up)
        return tau

    def shifts(self, tau: Sequence[float]) -> FloatArray:
        """The r [S] that stand for tau; 0 where there is no room to move."""
        moved = self.t - np.asarray(tau, dtype=np.float64)
        room = np.where(moved >= 0, self.down, self.up)
        r: FloatArray = np.divide(moved, room, out=np.zeros_like(moved), where=room > 0)
        return r
