"""Trials of a trainer that tunes times, on four steps of DDIM."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from stepsearch.search.trial import Trial
from trainers import TimeTunerConfig, trainer
from trainers.drawing_trial import run

QUICK = {"iterations": 2, "batches": 2, "held_out": 1, "batch_size": 8, "check_every": 1}


class Listener:
    def __init__(self, until: int = 10**9) -> None:
        self.until = until
        self.heard: list[dict[str, float]] = []

    def __call__(self, metrics: Mapping[str, float]) -> bool:
        timed = ("tuning_cpu_s", "evaluation_cpu_s")
        self.heard.append({k: v for k, v in metrics.items() if k not in timed})
        return True

    def progress(self, images_seen: int) -> bool:
        return images_seen < self.until


@pytest.fixture
def config(saved_pipeline: Path) -> Callable[..., TimeTunerConfig]:
    """config(times={...}): a trainer on four steps of DDIM."""

    def make(**fields: Any) -> TimeTunerConfig:
        made: TimeTunerConfig = trainer(
            "timetuner",
            **{
                "checkpoint": {"kind": "folder", "path": str(saved_pipeline)},
                "sampler": {"num_steps": 4},
                "score": "frechet",
                "gradient": QUICK,
                "end_to_end": {"iterations": 2, "batch_size": 8, "real": 16, "held_out": 16},
                "judge": {"samples": 32, "classifier": {"budget": 1000}},
            }
            | fields,
        )
        return made

    return make


@pytest.fixture
def trial(tmp_path: Path) -> Callable[..., Trial]:
    def make(config: TimeTunerConfig, images: tuple[int, ...] = (32,), seed: int = 0) -> Trial:
        folder = tmp_path / f"trial {len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        return Trial(0, config, seed, images, folder, tmp_path / "cache")

    return make


def heard(trial: Trial) -> list[dict[str, float]]:
    listener = Listener()
    run(trial, listener)
    return listener.heard


def exported(made: Trial, out: Path) -> Path:
    """`out`, with the times of a trial that has run."""
    made.config.export(
        out,
        trial=made.folder,
        budget=32,
        recipe="name: tuned\n",
        leaderboard=pd.DataFrame({"trial": [0]}),
        provenance={"search": "tuned", "trial": 0, "seed": 0},
    )
    return out
