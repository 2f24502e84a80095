"""How trials are told on one line."""

from __future__ import annotations

from typing import Any

import pytest
from rich.console import Console

from stepsearch.search.board import Board, Entry, describe
from stepsearch.search.view import render


@pytest.mark.parametrize(
    ("params", "line"),
    [
        ({"tau": 0.6124, "k": 4.1, "lam": 0.63}, "tau=0.612 k=4.1 lam=0.63"),
        ({"family": "speed", "speed.tau": 0.7, "p2.k": 1}, "family=speed tau=0.7 p2.k=1"),
        (
            {"case": "ddim-5", "ddim-5.r0": -0.1, "ddim-5.r1": 0.25, "ddim-5.parallel": 1.0},
            "case=ddim-5 r=-0.1,0.25 parallel=1",
        ),
        ({"stages": 3, "3.1": 0.1, "3.2": 0.2}, "stages=3 3.1=0.1 3.2=0.2"),
        ({"p2": 1, "mirror": True}, "p2=1 mirror=True"),
        ({}, ""),
    ],
)
def test_parameters_are_one_short_line(params: dict[str, Any], line: str) -> None:
    assert describe(params) == line


@pytest.mark.parametrize(("running", "shown"), [(0, 16), (15, 1), (16, 0), (20, 0)])
def test_the_table_has_the_running_trials_and_the_newest_others(running: int, shown: int) -> None:
    board = Board("small", "fd", True, 640, 60, (640,))
    for number in range(24 + running):
        state = "pruned" if number < 24 else "running"
        board.entries[number] = Entry(number, f"label{number:02d}", "proposal", state)
    console = Console(width=100)
    with console.capture() as captured:
        console.print(render(board))
    text = captured.get()
    assert [f"label{n:02d}" in text for n in range(24)] == [False] * (24 - shown) + [True] * shown
    assert all(f"label{n}" in text for n in range(24, 24 + running))
