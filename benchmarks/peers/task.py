"""The search that every peer runs in its own way, and the notes that its trials take."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from pydantic import Field

from search_spaces.base import Suggest
from search_spaces.speed import SpeedSpace
from stepsearch.config import Config, merge, parse
from stepsearch.diffusion.workers import ALONE, Workers
from stepsearch.search.trial import Report, Run, Trial
from trainers.denoising import DenoisingConfig
from trainers.training_trial import run

_TASK, _NOTES = "task.json", "notes.jsonl"

GoOn = Callable[[Mapping[str, float]], bool]
"""Takes the metrics of a milestone; False: stop now."""


@dataclass(frozen=True)
class Note:
    """What a trial said at a milestone, at a time of `time.time`."""

    trial: int
    at: float
    metrics: dict[str, float]

    @property
    def images_seen(self) -> int:
        return int(self.metrics["images_seen"])


class NotingTrainer(DenoisingConfig):
    """`denoising`, unchanged but that each trial notes its reports and when they were made."""

    @property
    def run(self) -> Run:
        return noting_run


def noting_run(trial: Trial, report: Report, workers: Workers = ALONE) -> None:
    run(trial, _Noting(trial, report), workers)


class _Noting:
    """A report that is written down before it is passed on."""

    def __init__(self, trial: Trial, report: Report) -> None:
        self._trial, self._report = trial, report

    def __call__(self, metrics: Mapping[str, float]) -> bool:
        note = Note(self._trial.number, time.time(), dict(metrics))
        with (self._trial.folder / _NOTES).open("a") as file:
            file.write(json.dumps(asdict(note)) + "\n")
        return self._report(metrics)

    def progress(self, images_seen: int) -> bool:
        return self._report.progress(images_seen)


@dataclass(frozen=True)
class _AtMilestones:
    """A report that asks at milestones only, as the peers do."""

    go_on: GoOn

    def __call__(self, metrics: Mapping[str, float]) -> bool:
        return self.go_on(metrics)

    def progress(self, images_seen: int) -> bool:
        return True


class Task(Config):
    """What to search, and how much may be spent. Its folder belongs to one peer alone."""

    folder: Path
    space: SpeedSpace
    trainer: NotingTrainer
    seed: int
    trials: int
    """The fixed points included."""
    milestones: tuple[int, ...]
    """`images_seen` at each report; the last one is a trial's budget."""
    lanes: int = Field(2, description="trials side by side, one thread each")
    startup: int = Field(description="finished trials before TPE learns from them")
    reduction: float = Field(description="each rung of successive halving keeps the best 1/this")
    first_rung: int = Field(description="`images_seen` before which no trial is stopped")

    @classmethod
    def read(cls, folder: str | Path) -> Self:
        return cls.model_validate_json((Path(folder) / _TASK).read_text())

    def write(self) -> None:
        self.folder.mkdir(parents=True)
        (self.folder / _TASK).write_text(self.model_dump_json())

    @property
    def budget(self) -> int:
        return self.milestones[-1]

    @property
    def metric(self) -> str:
        return self.trainer.objective()

    def prepare(self) -> None:
        """Train the judge's classifier; from here on this process has one thread."""
        self.trainer.prepare(self._cache)

    def fixed(self) -> list[dict[str, float]]:
        """The points that are tried first: uniform, then the paper's setting."""
        points = self.space.fixed(self.trainer.facts())
        return [dict(point.params) for point in points][: self.trials]

    def suggest(self, trial: Suggest) -> dict[str, Any]:
        """What a trial lays over the trainer's configuration."""
        return self.space.suggest(trial, self.trainer.facts())

    def train(self, number: int, proposed: Mapping[str, Any], go_on: GoOn) -> None:
        """Train and judge one trial in this process. Raises Diverged."""
        folder = self.folder / "trials" / f"{number:03d}"
        folder.mkdir(parents=True)
        config = parse(NotingTrainer, merge(self.trainer.model_dump(), proposed))
        trial = Trial(number, config, self.seed, self.milestones, folder, self._cache)
        self.trainer.run(trial, _AtMilestones(go_on), ALONE)

    def notes(self) -> list[Note]:
        """All reports of all trials, in the order in which they were made."""
        lines = [
            line for path in self.folder.rglob(_NOTES) for line in path.read_text().splitlines()
        ]
        return sorted((Note(**json.loads(line)) for line in lines), key=lambda note: note.at)

    @property
    def _cache(self) -> Path:
        return self.folder / "cache"
