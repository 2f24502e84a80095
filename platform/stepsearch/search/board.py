"""The board: where every trial of a search stands now, for whoever draws it."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol


@dataclass
class Entry:
    """A trial on the board."""

    number: int
    label: str
    role: str
    state: str = "running"
    images_seen: int = 0
    value: float | None = None


@dataclass
class Board:
    """The state of a running search; `View`s read it, only the recorder writes it."""

    name: str
    metric: str
    minimize: bool
    budget: int
    total: int
    milestones: tuple[int, ...]
    message: str = "starting"
    entries: dict[int, Entry] = field(default_factory=dict)
    started: float = field(default_factory=time.monotonic)
    share_before: float = 0.0
    spent: str = ""
    spent_share: float = 0.0
    """Of the budget that is the nearest to its end, trials aside."""

    @property
    def counts(self) -> Counter[str]:
        """How many trials are in each state."""
        return Counter(entry.state for entry in self.entries.values())

    @property
    def baseline(self) -> Entry | None:
        return next((e for e in self.entries.values() if e.role == "baseline"), None)

    @property
    def best(self) -> Entry | None:
        """The best finished trial by its own value (the guards are for the leaderboard)."""
        finished = [e for e in self.entries.values() if e.state == "finished"]
        sign = 1 if self.minimize else -1
        return min(finished, key=lambda e: sign * (e.value or 0.0), default=None)

    @property
    def share_done(self) -> float:
        """Images seen over images that are to be seen; an ended trial counts as whole.

        Where more of another budget is spent, that share: what ends first ends the search.
        """
        done = sum(
            e.images_seen if e.state == "running" else self.budget for e in self.entries.values()
        )
        return min(1.0, max(done / (self.total * self.budget), self.spent_share))

    @property
    def seconds_left(self) -> float | None:
        """From the pace so far; None while there is none."""
        share = self.share_done
        gained = share - self.share_before
        if gained <= 0:
            return None
        return (time.monotonic() - self.started) * (1 - share) / gained


class View(Protocol):
    """Draws a search while it runs."""

    def show(self, board: Board) -> None:
        """Begin to draw this board; it changes under the view's eyes."""

    def say(self, line: str) -> None:
        """Tell something that stays on the screen."""

    def close(self) -> None: ...


class Silent:
    """A view for notebooks and tests: draws nothing."""

    def show(self, board: Board) -> None: ...

    def say(self, line: str) -> None: ...

    def close(self) -> None: ...


def describe(params: Mapping[str, Any]) -> str:
    """Parameters in one short line: `tau=612 k=4.1 lam=0.63`.

    What belongs to a choice goes without its owner, and what is numbered goes together:
    `case=ddim ddim.r0=0.1 ddim.r1=0.2` becomes `case=ddim r=0.1,0.2`.
    """
    chosen = set(map(str, params.values()))
    together: dict[str, dict[str, str]] = {}
    for name, value in params.items():
        owner, _, own = name.rpartition(".")
        short = own if owner in chosen and not own.isdecimal() else name
        shown = f"{value:.3g}" if isinstance(value, float) else str(value)
        together.setdefault(short.rstrip("0123456789"), {})[short] = shown
    return " ".join(
        f"{stem}={','.join(group.values())}"
        if len(group) > 1 and not stem.endswith(".")
        else " ".join(f"{name}={shown}" for name, shown in group.items())
        for stem, group in together.items()
    )
