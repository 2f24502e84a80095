"""A trial leaves nothing behind: what there is after ten trials is all there is after thirty."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import psutil
import pytest
from ray._private.state import actors
from ray.util import placement_group_table

from stepsearch.search.board import Silent
from stepsearch.search.config import SearchConfig
from stepsearch.search.driver import launch

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("ray_cluster")]


@dataclass(frozen=True)
class Census:
    """What a search holds at a moment."""

    actors: set[str]
    placement_groups: set[str]
    descriptors: dict[int, int]
    """Of this process and all of Ray's, by pid."""

    @classmethod
    def take(cls) -> Census:
        this = psutil.Process()
        return cls(
            {name for name, actor in actors().items() if actor["State"] != "DEAD"},
            {name for name, g in placement_group_table().items() if g["state"] != "REMOVED"},
            {process.pid: process.num_fds() for process in [this, *this.children(recursive=True)]},
        )


class Counting(Silent):
    """Takes a census whenever a trial has ended."""

    def __init__(self) -> None:
        self.taken: list[Census] = []

    def say(self, line: str) -> None:
        self.taken.append(Census.take())


def test_thirty_trials_need_no_more_than_ten(small: Callable[..., SearchConfig]) -> None:
    view = Counting()
    launch(small(budget={"trials": 30, "images": 64, "reports": 2}), view)
    early, late = view.taken[9], view.taken[-1]
    assert len(view.taken) == 30
    assert late.actors == early.actors
    assert late.placement_groups == early.placement_groups
    assert set(late.descriptors) <= set(early.descriptors), "no process was started"
    for pid, count in late.descriptors.items():
        assert count < early.descriptors[pid] + 10, "not even one descriptor every second trial"
