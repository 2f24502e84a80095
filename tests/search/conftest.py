"""Small real searches: digits, a U-Net, a few steps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from search_spaces import SpeedSpace
from stepsearch.config import merge, parse
from stepsearch.search.config import SearchConfig
from trainers import trainer

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


@pytest.fixture
def small(tmp_path: Path) -> Callable[..., SearchConfig]:
    """Makes a search configuration; keyword arguments are laid over the small default."""

    def make(trainer_changes: dict[str, Any] | None = None, **changes: Any) -> SearchConfig:
        data = merge(SEARCH, changes) | {
            "storage": tmp_path,
            "space": SpeedSpace(),
            "trainer": trainer(**merge(TRAINER, trainer_changes or {})),
        }
        return parse(SearchConfig, data)

    return make
