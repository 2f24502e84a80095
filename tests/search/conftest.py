"""Small real searches: digits, a U-Net, a few steps."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from search_spaces import SpeedSpace
from stepsearch.config import merge, parse
from stepsearch.search.config import SearchConfig
from trainers import trainer

ROOT = Path(__file__).parents[2]
Small = Callable[..., SearchConfig]
Drive = Callable[..., subprocess.Popen[str]]

TRAINER: dict[str, Any] = {
    "denoiser": {"channels": [8, 16]},
    "training": {"batch_size": 32, "warmup_steps": 5},
    "sampler": {"num_steps": 2},
    "judge": {"samples": 32, "classifier": {"budget": 1000}},
}
SEARCH: dict[str, Any] = {
    "name": "small",
    "budget": {"trials": 4, "images": 640, "reports": 4},
    "trial_scheduler": {"grace": 0, "reduction": 2},
    "optuna_sampler": {"kind": "random"},
    "finalists": {"count": 0},
    "guards": {},
    "lanes": {"count": 2},
}


def make_small(
    folder: Path, trainer_changes: dict[str, Any] | None = None, **changes: Any
) -> SearchConfig:
    data = merge(SEARCH | {"storage": folder}, changes) | {
        "space": SpeedSpace(),
        "trainer": trainer(**merge(TRAINER, trainer_changes or {})),
    }
    return parse(SearchConfig, data)


@pytest.fixture
def small(tmp_path: Path) -> Small:
    """Makes a search configuration; keyword arguments are laid over the small default."""
    return partial(make_small, tmp_path)


def wait_for_reports(folder: Path, count: int) -> None:
    """Until the search in this folder has recorded so many reports."""
    path = folder / "history.jsonl"
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        if path.exists() and len(path.read_text().splitlines()) >= count:
            return
        time.sleep(0.05)
    raise AssertionError(f"no {count} reports in {path}")


@pytest.fixture
def drive(small: Small, tmp_path: Path) -> Iterator[Drive]:
    """Starts run_search.py on a small search in a process of its own."""
    started: list[subprocess.Popen[str]] = []

    def start(config: SearchConfig, *command: str) -> subprocess.Popen[str]:
        file = tmp_path / "search.yaml"
        file.write_text(yaml.safe_dump(config.model_dump(mode="json", exclude_none=True)))
        words = [sys.executable, str(ROOT / "run_search.py"), *command]
        words = [str(file) if word == "FILE" else word for word in words]
        process = subprocess.Popen(
            words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=tmp_path
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()
