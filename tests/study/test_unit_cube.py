"""Points of a space as points of a unit cube."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from stepsearch.study import Suggest
from stepsearch.study.unit_cube import UnitCube


def space(trial: Suggest) -> Mapping[str, Any]:
    return {
        "tau": trial.suggest_float("tau", 0.5, 1.0),
        "k": trial.suggest_float("k", 1, 100, log=True),
        "steps": trial.suggest_int("steps", 10, 20),
        "kind": trial.suggest_categorical("kind", ["ddim", "ddpm"]),
    }


@pytest.fixture(scope="module")
def cube() -> UnitCube:
    return UnitCube(space)


POINT = {"tau": 0.75, "k": 10.0, "steps": 11, "kind": "ddim"}


def test_each_range_is_stretched_on_its_own_scale(cube: UnitCube) -> None:
    assert cube.names == ("tau", "k", "steps", "kind")
    assert cube.place(POINT)[:3] == pytest.approx([0.5, 0.5, 0.1])


def test_two_categories_are_as_far_apart_as_the_ends_of_a_range(cube: UnitCube) -> None:
    other = cube.place({**POINT, "kind": "ddpm"})
    assert np.linalg.norm(cube.place(POINT) - other) == pytest.approx(1.0)
    ends = [cube.place({**POINT, "tau": tau}) for tau in (0.5, 1.0)]
    assert np.linalg.norm(ends[0] - ends[1]) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("changes", "inside"),
    [
        ({}, True),
        ({"tau": 0.5, "k": 100, "steps": 20}, True),
        ({"tau": 0.49}, False),
        ({"k": 101}, False),
        ({"steps": 9}, False),
        ({"kind": "euler"}, False),
    ],
)
def test_the_cube_holds_what_the_ranges_hold(
    changes: dict[str, Any], inside: bool, cube: UnitCube
) -> None:
    assert cube.holds({**POINT, **changes}) == inside
