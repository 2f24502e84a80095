"""Where the points of a space lie in a unit cube, and so how far apart they are."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from stepsearch.study.spaces import Probe, Space, candidates

FloatArray = npt.NDArray[np.float64]


class UnitCube:
    """The ranges of a space without branches, each stretched to 0..1 on its own scale.

    A category has a dimension for each of its choices, in which any two of them are 1 apart.
    """

    def __init__(self, space: Space) -> None:
        probe = Probe(lambda name, distribution: candidates(distribution, 1)[0])
        space(probe)
        self._distributions = probe.distributions

    @property
    def names(self) -> tuple[str, ...]:
        """The parameters, in the order in which the space suggests them."""
        return tuple(self._distributions)

    def place(self, params: Mapping[str, Any]) -> FloatArray:
        """The coordinates of a point; one that is not in its range lies outside of 0..1."""
        parts = [_unit(d, params[name]) for name, d in self._distributions.items()]
        return np.array([coordinate for part in parts for coordinate in part])

    def holds(self, params: Mapping[str, Any]) -> bool:
        """Whether every parameter is in its range."""
        point = self.place(params)
        return bool(np.all((point >= 0) & (point <= 1)))


def _unit(distribution: BaseDistribution, value: Any) -> list[float]:
    if isinstance(distribution, CategoricalDistribution):
        if value not in distribution.choices:
            return [-1.0] * len(distribution.choices)
        return [math.sqrt(0.5) * (choice == value) for choice in distribution.choices]
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    scale = math.log if distribution.log else float
    low, high = scale(distribution.low), scale(distribution.high)
    return [(scale(value) - low) / (high - low) if high > low else scale(value) - low]
