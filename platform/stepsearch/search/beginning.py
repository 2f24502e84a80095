"""What a new search tries before Optuna's own proposals."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from stepsearch.search.config import SearchConfig
from stepsearch.search.leaderboard import BASELINE, CARRIED, PAPER
from stepsearch.search.warm_start import Earlier

_SHARE = 1 / 3
"""Of the trials besides the fixed points, what an earlier search's points may take."""


@dataclass(frozen=True)
class Beginner:
    """A point that is queued when a search begins."""

    label: str
    role: str
    params: Mapping[str, Any]
    attrs: Mapping[str, Any] = field(default_factory=dict)
    """Of a point that an earlier search has scored: where, and with what value."""


def beginning(config: SearchConfig, earlier: Earlier | None = None) -> list[Beginner]:
    """The baseline, the papers' settings, and the best of the earlier search's points.

    A fixed point that the earlier search has scored is one trial, not two.
    """
    fixed = config.space.fixed(config.trainer.facts())
    known = earlier.points if earlier else ()
    found = []
    for i, point in enumerate(fixed):
        same = next((k.attrs for k in known if k.params == point.params), {})
        found.append(Beginner(point.label, PAPER if i else BASELINE, point.params, same))
    room = math.ceil(_SHARE * max(0, config.budget.trials - len(fixed)))
    others = [k for k in known if all(k.params != point.params for point in fixed)]
    return found + [Beginner(k.label, CARRIED, k.params, k.attrs) for k in others[:room]]
