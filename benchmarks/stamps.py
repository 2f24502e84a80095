"""A trainer that writes down when its trials begin, step for the first time, report and end."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from stepsearch.diffusion.training import Training
from stepsearch.diffusion.workers import ALONE, Workers
from stepsearch.search.trial import Report, Run, Trial
from trainers.denoising import DenoisingConfig, run

FILE = "STEPSEARCH_STAMPS"
"""The environment variable that names the file; Ray's processes inherit it."""


@dataclass(frozen=True)
class Stamp:
    """Something that happened, at a time of `time.time`."""

    event: str
    at: float
    process: int


def stamp(event: str) -> None:
    """Append to the file; a line is short enough that processes do not mix theirs."""
    line = json.dumps(asdict(Stamp(event, time.time(), os.getpid())))
    with Path(os.environ[FILE]).open("a") as file:
        file.write(line + "\n")


def read(file: Path) -> list[Stamp]:
    return [Stamp(**json.loads(line)) for line in file.read_text().splitlines()]


class StampedTrainer(DenoisingConfig):
    """`denoising`, unchanged but for the stamps."""

    @property
    def run(self) -> Run:
        return stamped_run

    def prepare(self, cache: Path) -> Mapping[str, float]:
        numbers = super().prepare(cache)
        stamp("prepared")
        return numbers

    def training_for(self, seed: int, budget: int, workers: Workers = ALONE) -> Training:
        """The first step comes right after this."""
        training = super().training_for(seed, budget, workers)
        stamp("first step")
        return training


def stamped_run(trial: Trial, report: Report, workers: Workers = ALONE) -> None:
    """A trial between its stamps; `work` is the training and its evaluations."""
    stamp(f"taken {trial.number}")
    run(trial, _Stamped(report), workers)
    stamp("left")


class _Stamped:
    """A report that stamps when a milestone was reached, and when the answer came."""

    def __init__(self, report: Report) -> None:
        self._report = report

    def __call__(self, metrics: Mapping[str, float]) -> bool:
        stamp("reported")
        go_on = self._report(metrics)
        stamp("answered")
        return go_on

    def progress(self, images_seen: int) -> bool:
        return self._report.progress(images_seen)
