"""A search whose MLflow is away: it goes on, says what waits, and a resume delivers it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from stepsearch.search.closing import show_report
from stepsearch.search.config import SearchConfig
from stepsearch.search.driver import launch, resume
from stepsearch.search.result import SearchResult
from stepsearch.tracking import held_trials

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("ray_cluster")]

ROOT = Path(__file__).parents[2]
RESUME = """
import sys
import run_search
sys.argv = ["run_search.py", "resume", "small", "--storage", sys.argv[1]]
try:
    run_search.main()
finally:
    print("ray" in sys.modules)
"""


class Killing:
    """A view that kills the server at the end of the first trial."""

    def __init__(self, server: Any) -> None:
        self._server = server

    def show(self, board: object) -> None: ...

    def say(self, line: str) -> None:
        self._server.kill()

    def close(self) -> None: ...


def page(result: SearchResult) -> str:
    console = Console(width=100)
    with console.capture() as captured:
        show_report(result, console)
    return captured.get()


def test_a_search_goes_on_without_mlflow_and_a_resume_delivers_what_waits(
    small: Callable[..., SearchConfig], server: Any
) -> None:
    config = small(
        budget={"trials": 2}, trial_scheduler={"kind": "fifo"}, tracking={"uri": server.uri}
    )
    first = launch(config, Killing(server))
    assert [record.outcome for record in first.records] == ["finished", "finished"]
    assert first.waiting > 0
    assert f"{first.waiting} records wait for MLflow; `resume small` sends them" in page(first)
    assert SearchResult.read(config.resolved()).waiting == first.waiting, "`status` says so too"

    second = resume(first.config.extended(3))
    assert [record.outcome for record in second.records] == ["finished"] * 3
    assert second.waiting > first.waiting
    assert "for MLflow" in page(resume(second.config)), "still away"

    server.start()
    done = subprocess.run(
        [sys.executable, "-c", RESUME, str(config.storage)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'platform'}"},
    )
    assert done.stdout.endswith("False\n"), "Ray is not even imported"
    assert "for MLflow" not in done.stdout
    result = SearchResult.read(second.config)
    assert (result.waiting, result.folder.spool.exists()) == (0, False)
    held = held_trials(
        config.tracking, config.storage, search_id=result.folder.id, metric="fd_digits"
    )
    assert sorted(held) == [0, 1, 2]
    for trial in held.values():
        assert (trial.status, trial.outcome, trial.runs) == ("FINISHED", "finished", 1)
        assert trial.steps == config.budget.milestones()
