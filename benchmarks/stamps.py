"""A trainer that writes down when its trials begin, step for the first time, report and end."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

from stepsearch.diffusion.training import Training
from stepsearch.diffusion.workers import ALONE, Workers
from stepsearch.search.trial import Report, Run, Trial
from trainers.denoising import DenoisingConfig
from trainers.training_trial import run

FILE = "STEPSEARCH_STAMPS"
"""The environment variable that names the file; Ray's processes inherit it."""


@dataclass(frozen=True)
class Stamp:
    """Something that happened, at a time of `time.time`."""

    event: str
    at: float
    process: int


def stamp(event: str) -> None:
    """Append to the file, in one write: several processes do."""
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

    def training_for(
        self, seed: int, budget: int, workers: Workers = ALONE, slices: int = 1
    ) -> Training:
        """The first step comes right after this."""
        training = super().training_for(seed, budget, workers, slices)
        stamp("first step")
        return training


def stamped_run(trial: Trial, report: Report, workers: Workers = ALONE) -> None:
    """A trial between its stamps."""
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


@dataclass(frozen=True)
class Visit:
    """A trial's time in the process that trained it."""

    trial: int
    process: int
    taken: float
    first_step: float
    reported: tuple[float, ...]
    answered: tuple[float, ...]
    left: float


def visits(stamps: Sequence[Stamp]) -> list[Visit]:
    """All trials, in the order in which they were taken."""
    found: list[Visit] = []
    for process in {stamp.process for stamp in stamps if stamp.event == "left"}:
        own = [stamp for stamp in stamps if stamp.process == process]
        starts = [i for i, stamp in enumerate(own) if stamp.event.startswith("taken ")]
        found += [_visit(own[i:j]) for i, j in pairwise([*starts, len(own)])]
    return sorted(found, key=lambda visit: visit.taken)


def _visit(own: Sequence[Stamp]) -> Visit:
    def at(event: str) -> tuple[float, ...]:
        return tuple(stamp.at for stamp in own if stamp.event == event)

    return Visit(
        trial=int(own[0].event.split()[1]),
        process=own[0].process,
        taken=own[0].at,
        first_step=at("first step")[0],
        reported=at("reported"),
        answered=at("answered"),
        left=at("left")[0],
    )
