"""A search's trainings and evaluations without the search: plain Python, one after another."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna

from stepsearch.diffusion.workers import ALONE
from stepsearch.search.config import SearchConfig
from stepsearch.search.history import History
from stepsearch.search.trial import Trial
from stepsearch.study.records import PROPOSED, callers, record


@dataclass(frozen=True)
class Training:
    """What a search trained for one trial."""

    number: int
    proposed: Mapping[str, Any]
    seed: int
    """Beyond the search's own."""
    images: int
    """Up to its last report."""


def trainings(trials: Iterable[optuna.trial.FrozenTrial]) -> list[Training]:
    """Those of Optuna's trials."""
    return [
        Training(
            trial.number,
            trial.user_attrs[PROPOSED],
            callers(trial.user_attrs).get("seed", 0),
            max(record(trial).intermediate),
        )
        for trial in trials
    ]


def train(config: SearchConfig, work: Iterable[Training], folder: Path) -> History:
    """Do all of it again in this process; what it reports is the history in `folder`."""
    history = History(folder / "history.jsonl")
    config.trainer.prepare(folder / "cache")  # from here on there is one thread
    for each in work:
        trial = Trial(
            number=each.number,
            config=config.trainer_for(each.proposed),
            seed=config.seed + each.seed,
            milestones=config.budget.milestones(),
            folder=folder / f"{each.number:03d}",
            cache=folder / "cache",
        )
        trial.folder.mkdir(parents=True)
        config.trainer.run(trial, _Until(each.images, history, each.number), ALONE)
    return history


class _Until:
    """The report of a trial that is stopped at one of its milestones."""

    def __init__(self, images: int, history: History, number: int) -> None:
        self._images, self._history, self._number = images, history, number

    def __call__(self, metrics: Mapping[str, float]) -> bool:
        images_seen = int(metrics["images_seen"])
        self._history.add(self._number, images_seen, metrics)
        return images_seen < self._images

    def progress(self, images_seen: int) -> bool:
        return True
