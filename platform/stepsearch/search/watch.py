"""The watch: what a running search is asked twice a second, for the board and for its records."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from typing import TYPE_CHECKING

from stepsearch.cluster import LaneShape, resources
from stepsearch.search.board import Board, View
from stepsearch.search.spending import Spending

if TYPE_CHECKING:
    from stepsearch.search.engine import Engine  # it imports Ray

_EVERY_S = 0.5
_MAKES_ROOM = 4
"""It looks for others that wait every so many turns."""


@contextmanager
def watching(engine: Engine, spending: Spending, board: Board, view: View) -> Iterator[None]:
    """Keep the board and the record of what is spent up to date; say which lanes have to wait."""
    over = threading.Event()
    lanes = _Lanes(spending.shape, board, view)

    def watch() -> None:
        for turn in count():
            if over.wait(_EVERY_S):
                return
            if turn % _MAKES_ROOM == 0:
                lanes.make_room(engine.make_room())
            lanes.look([hold.up for hold in engine.holds], [h.waiting for h in engine.holds])
            progress = engine.watch()
            for number, images_seen in progress.items():
                if number in board.entries:
                    board.entries[number].images_seen = images_seen
            spending.progress(progress)
            board.spent, board.spent_share = spending.line(), spending.share
            spending.note()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


class _Lanes:
    """Tells of lanes that wait for CPUs and GPUs, and when they have come."""

    def __init__(self, shape: LaneShape, board: Board, view: View) -> None:
        self._shape, self._board, self._view = shape, board, view
        self._told = -1
        self._makes_room = False

    def make_room(self, wanted: int) -> None:
        """So many lanes of a higher priority wait."""
        if wanted and not self._makes_room:
            self._view.say(
                "a search of a higher priority waits: lanes go to it as their trials end"
            )
        self._makes_room = wanted > 0

    def look(self, up: list[bool], waiting: list[bool]) -> None:
        there = sum(up)
        line = f"{there} of {len(up)} lanes are there"
        if any(waiting):
            line += f", each of the others waits for {_missing(self._shape)}"
        if there > self._told and (any(waiting) or self._told >= 0):
            self._view.say(line)
        if any(waiting) or self._told >= 0:
            self._told = there
        if any(waiting):
            self._board.message = line
        elif there:
            self._board.message = ""


def _missing(shape: LaneShape) -> str:
    """What a lane asks for, and why it does not have it."""
    lane = {"CPU": shape.workers * shape.cpus, "GPU": shape.workers * shape.gpus}
    needs = " and ".join(f"{n:g} {what}{'s' * (n != 1)}" for what, n in lane.items() if n)
    total = resources()
    enough = all(total.get(what, 0) >= shape.count * n for what, n in lane.items())
    return f"{needs} that {'others hold' if enough else 'the cluster has lost'}"
