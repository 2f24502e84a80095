"""Spaces and a study maker."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from stepsearch.study import OPTUNA_SAMPLERS, Objective, RandomConfig, Space, Study, Suggest


@pytest.fixture(scope="session")
def conditional() -> Space:
    """A family with parameters of its own: floats log and linear, an int, categories."""

    def space(trial: Suggest) -> dict[str, Any]:
        family = trial.suggest_categorical("family", ["uniform", "speed", "p2"])
        strategy: dict[str, Any] = {"kind": family}
        if family == "speed":
            strategy["tau"] = trial.suggest_int("speed.tau", 1, 1000)
            strategy["k"] = trial.suggest_float("speed.k", 1, 10, log=True)
        if family == "p2":
            strategy["gamma"] = trial.suggest_float("p2.gamma", 0, 2)
        return {"strategy": strategy}

    return space


@pytest.fixture(scope="session")
def line() -> Space:
    """One float x in 0..1."""
    return lambda trial: {"x": trial.suggest_float("x", 0, 1)}


Make = Callable[..., Study]


@pytest.fixture(scope="session")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A storage with its tables: Optuna takes a while to make them."""
    path = tmp_path_factory.mktemp("storage") / "study.db"
    Study.create(path, "first", [Objective("fd")], RandomConfig(), 0).close()
    return path


@pytest.fixture
def make(tmp_path: Path, empty: Path) -> Iterator[Make]:
    """make(kind, *objective names, **create's keywords) -> a new study in tmp_path/study.db."""
    made: list[Study] = []
    shutil.copy(empty, tmp_path)

    def make(kind: str = "random", *objectives: str, seed: int = 0, **more: Any) -> Study:
        sampler = OPTUNA_SAMPLERS[kind](**more.pop("sampler", {}))
        name = more.pop("name", f"search-{len(made)}")
        found = [Objective(name) for name in objectives or ("fd_digits",)]
        storage = more.pop("storage", tmp_path / "study.db")
        made.append(Study.create(storage, name, found, sampler, seed, **more))
        return made[-1]

    yield make
    for study in made:
        study.close()
