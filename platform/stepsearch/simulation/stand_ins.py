"""Which recording stands in for a trial that is only proposed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from stepsearch.errors import UserError
from stepsearch.search.board import describe
from stepsearch.simulation.curves import Recording
from stepsearch.study.unit_cube import UnitCube

_SAME = 1e-3
"""Points nearer than this share of the ranges are one: recordings are rounded."""


class StandIns:
    """The recordings of one simulated search: each stands in once, unless `reuse` allows more."""

    def __init__(self, cube: UnitCube, recordings: Sequence[Recording], *, reuse: bool) -> None:
        self._cube, self._recordings, self._reuse = cube, recordings, reuse
        self._points = np.array([cube.place(recording.params) for recording in recordings])
        self._free = np.ones(len(recordings), dtype=bool)

    def take(self, params: Mapping[str, Any]) -> tuple[Recording, float]:
        """The nearest recording that is free, and its distance in the unit cube."""
        distances = np.linalg.norm(self._points - self._cube.place(params), axis=1)
        if not self._reuse:
            distances[~self._free] = np.inf
        nearest = int(np.argmin(distances))
        self._free[nearest] = False
        return self._recordings[nearest], float(distances[nearest])

    def take_exactly(self, params: Mapping[str, Any], label: str) -> Recording:
        """The recording of a fixed point. Raises UserError if there is none."""
        recording, distance = self.take(params)
        if distance > _SAME:
            raise UserError(
                f"curves must hold the fixed point {label!r} ({describe(params)}), "
                f"the nearest one is {describe(recording.params)}"
            )
        return recording
