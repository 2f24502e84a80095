"""How trials are told on one line."""

from __future__ import annotations

from typing import Any

import pytest

from stepsearch.search.board import describe


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
