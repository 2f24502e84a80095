"""A trainer that trains nothing: what is left of a search is the engine."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.stamps import stamp
from stepsearch.diffusion.workers import ALONE, Workers
from stepsearch.search.trial import Report, Run, Trial
from stepsearch.strategies import SpeedConfig
from trainers.denoising import DenoisingConfig


class TrivialTrainer(DenoisingConfig):
    """Its trials compute a number from their configuration and train nothing."""

    @property
    def run(self) -> Run:
        return trivial_run

    def prepare(self, cache: Path) -> Mapping[str, float]:
        return {}

    def objective(self) -> str:
        return "distance"

    def guards(self) -> Mapping[str, float]:
        return {}

    def illustrate(self, folder: Path) -> None:
        (folder / "pictures").mkdir()

    def export(self, out: Path, **_: Any) -> None:
        out.mkdir()


def trivial_run(trial: Trial, report: Report, workers: Workers = ALONE) -> None:
    """Report the squared distance to some point of the space, which falls over the milestones."""
    stamp(f"taken {trial.number}")
    stamp("first step")
    speed = trial.config.strategy
    if not isinstance(speed, SpeedConfig):
        speed = SpeedConfig(tau=1000, k=1, lam=0.5)  # uniform
    offset = np.array([(speed.tau or 0) / 1000 - 0.6, np.log10(speed.k) - 0.5, speed.lam - 0.7])
    for images_seen in trial.milestones:
        distance = float(offset @ offset) + 1 / images_seen
        stamp("reported")
        go_on = report({"images_seen": images_seen, "distance": distance})
        stamp("answered")
        if not go_on:
            break
    stamp("left")
