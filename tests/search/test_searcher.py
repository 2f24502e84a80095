"""What Ray Tune hears where a trial cannot begin."""

from __future__ import annotations

import errno
import threading
from types import SimpleNamespace
from typing import Any

import pytest
from ray.tune.search import Searcher

from stepsearch.search.searcher import StudySearcher


def searcher(agenda: Any, make_trial: Any, paused: list[bool]) -> StudySearcher:
    pause = SimpleNamespace(remote=lambda: paused.append(True))
    dispatcher, recorder = SimpleNamespace(pause=pause), SimpleNamespace()
    cut_off = threading.Event()
    how = (dispatcher, "name", lambda: 1, threading.Event(), cut_off)
    return StudySearcher(agenda, recorder, make_trial, *how)


@pytest.mark.parametrize("where", ["the study", "the trial's folder"])
def test_a_full_disk_pauses_the_search_wherever_it_is_met(where: str) -> None:
    full = OSError(errno.ENOSPC, "No space left on device")

    def refuse(*given: Any) -> Any:
        raise full

    def propose() -> Any:
        return object()

    agenda = SimpleNamespace(next=refuse if where == "the study" else propose, exhausted=False)
    paused: list[bool] = []
    made = searcher(agenda, refuse, paused)
    assert made.suggest("a") is None
    assert (made.failure, paused) == (full, [True])
    assert made.suggest("b") == Searcher.FINISHED
