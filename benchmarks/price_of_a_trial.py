"""What a trial costs over its training: the same trainings with and without the engine.

Eight short trials (80 steps of 64 digits and four small evaluations each) run

    plain     one after another in one Python process on one thread, without Ray
    2 lanes   as a search on two lanes, none stopped early
    1 lane    the same on one lane
    asha      the search on two lanes, with early stopping: other proposals, for one number only

each in a process and a storage of its own. The first three do the same trainings: their metrics
must be equal to the last digit. One round takes some three minutes on two quiet cores.

    python benchmarks/price_of_a_trial.py [--quick]

--quick is one round instead of three. The last line is a JSON object, its numbers medians over the
rounds: first_trial_s is from the start of the process to the first training step, next_trial_s from
Optuna's proposal to it for all other trials, stop_to_next_s from the report at which a trial is
stopped early to the next trial's first step, wall_ratio is the wall time on two lanes over plain's,
cpu_share the CPU-seconds of training and evaluation over all on two lanes.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import optuna

from benchmarks import stamps
from benchmarks.meter import Meter
from benchmarks.stamps import Stamp, StampedTrainer, stamp
from search_spaces.speed import SpeedSpace
from stepsearch.cluster import LanesConfig
from stepsearch.diffusion.workers import ALONE
from stepsearch.evaluation.judge import JudgeConfig
from stepsearch.search.board import Board, Silent
from stepsearch.search.config import (
    BudgetConfig,
    FinalistsConfig,
    SearchConfig,
    TrialSchedulerConfig,
)
from stepsearch.search.driver import launch
from stepsearch.search.history import History
from stepsearch.search.trial import Trial
from stepsearch.study import RandomConfig
from stepsearch.study.records import PROPOSED

NAME = "price"
TRIALS = 8


def configuration(storage: Path, lanes: int, scheduler: TrialSchedulerConfig) -> SearchConfig:
    """Random proposals depend on nothing that has been measured: they are always the same."""
    return SearchConfig(
        name=NAME,
        space=SpeedSpace(),
        trainer=StampedTrainer(judge=JudgeConfig(samples=200)),
        storage=storage,
        budget=BudgetConfig(trials=TRIALS, images=5120),
        lanes=LanesConfig(count=lanes),
        optuna_sampler=RandomConfig(),
        trial_scheduler=scheduler,
        finalists=FinalistsConfig(count=0),
    )


def on_lanes(storage: Path, lanes: int, kind: Any) -> None:
    """The search; runs in a process of its own."""
    launch(configuration(storage, lanes, TrialSchedulerConfig(kind=kind)), _Watcher())


class _Watcher(Silent):
    def show(self, board: Board) -> None:
        stamp("connected")


def plain(storage: Path, proposals: Sequence[Mapping[str, Any]]) -> None:
    """The same trainings without the engine; runs in a process of its own."""
    config = configuration(storage, 1, TrialSchedulerConfig(kind="fifo"))
    cache, history = storage / ".cache", History(storage / NAME / "history.jsonl")
    config.trainer.prepare(cache)  # on one thread from here on
    for number, proposed in enumerate(proposals):
        trial = Trial(
            number=number,
            config=config.trainer_for(proposed),
            seed=config.seed,
            milestones=config.budget.milestones(),
            folder=storage / NAME / f"{number:03d}",
            cache=cache,
        )
        trial.folder.mkdir(parents=True)
        config.trainer.run(trial, _ToHistory(history, number), ALONE)


class _ToHistory:
    """The report of a trial that nobody stops."""

    def __init__(self, history: History, number: int) -> None:
        self._history, self._number = history, number

    def __call__(self, metrics: Mapping[str, float]) -> bool:
        return self._history.add(self._number, int(metrics["images_seen"]), metrics)

    def progress(self, images_seen: int) -> bool:
        return True


@dataclass(frozen=True)
class Visit:
    """A trial's time on a lane; `decided` are pairs of a report and its answer."""

    trial: int
    lane: int
    taken: float
    first_step: float
    decided: tuple[tuple[float, float], ...]
    left: float


@dataclass(frozen=True)
class Measured:
    """One of the ways, run once. Times are those of `time.time`."""

    began: float
    ended: float
    stamps: list[Stamp]
    meter: Meter
    reports: list[dict[str, Any]]
    trials: list[optuna.trial.FrozenTrial]
    """Optuna's; none if it had no part in it."""

    @property
    def wall_s(self) -> float:
        return self.ended - self.began

    @property
    def work_s(self) -> float:
        """CPU-seconds of training and evaluation."""
        return sum(
            row["metrics"]["train_cpu_s"] + row["metrics"]["evaluation_cpu_s"]
            for row in self.reports
        )

    @property
    def cpu_s(self) -> float:
        return sum(self.meter.cpu_s.values())

    def at(self, event: str) -> float:
        return next(s.at for s in self.stamps if s.event == event)

    @cached_property
    def visits(self) -> list[Visit]:
        """In the order in which the trials were taken."""
        found: list[Visit] = []
        for lane in {s.process for s in self.stamps if s.event == "left"}:
            own = [s for s in self.stamps if s.process == lane]
            starts = [i for i, s in enumerate(own) if s.event.startswith("taken ")]
            found += [_visit(own[i:j]) for i, j in pairwise([*starts, len(own)])]
        return sorted(found, key=lambda visit: visit.taken)

    @property
    def neighbours(self) -> list[tuple[Visit, Visit]]:
        """Two trials that were on a lane one right after the other."""
        lanes = {visit.lane for visit in self.visits}
        return [
            pair for lane in lanes for pair in pairwise(v for v in self.visits if v.lane == lane)
        ]

    def outcome(self) -> dict[tuple[int, int], dict[str, float]]:
        """What the trainings came to: all metrics but those that tell the time."""
        timed = {"train_cpu_s", "evaluation_cpu_s", "images_per_s"}
        return {
            (row["trial"], row["images_seen"]): {
                name: value for name, value in row["metrics"].items() if name not in timed
            }
            for row in self.reports
        }


def _visit(own: Sequence[Stamp]) -> Visit:
    def at(event: str) -> list[float]:
        return [s.at for s in own if s.event == event]

    return Visit(
        trial=int(own[0].event.split()[1]),
        lane=own[0].process,
        taken=own[0].at,
        first_step=at("first step")[0],
        decided=tuple(zip(at("reported"), at("answered"), strict=True)),
        left=at("left")[0],
    )


def measure(way: Callable[..., None], *arguments: Any) -> Measured:
    """Run one of the ways in a new process and a new storage."""
    with tempfile.TemporaryDirectory() as folder, Meter() as meter:
        storage = Path(folder)
        os.environ[stamps.FILE] = str(storage / "stamps.jsonl")
        began = time.time()
        process = multiprocessing.get_context("spawn").Process(
            target=way, args=(storage, *arguments)
        )
        process.start()
        process.join()
        ended = time.time()
        if process.exitcode:
            raise SystemExit(f"{way.__name__} failed")
        history, study = storage / NAME / "history.jsonl", storage / NAME / "study.db"
        rows = [json.loads(line) for line in history.read_text().splitlines()]
        trials = []
        if study.exists():
            optuna.logging.set_verbosity(optuna.logging.WARNING)
            trials = optuna.load_study(study_name=NAME, storage=f"sqlite:///{study}").trials
        return Measured(began, ended, stamps.read(storage / "stamps.jsonl"), meter, rows, trials)


def phases(search: Measured) -> dict[str, float]:
    """Where the time of a search goes, in seconds, in the order in which it goes there."""
    first: dict[int, Visit] = {}
    for visit in search.visits:
        first.setdefault(visit.lane, visit)
    later = [visit for visit in search.visits if visit not in first.values()]
    answers = [b - a for visit in search.visits for a, b in visit.decided[:-1]]
    begun = search.visits[0]
    return {
        "imports, folder, study, Ray cluster": search.at("connected") - search.began,
        "until the judge is prepared": search.at("prepared") - search.at("connected"),
        "until the first lane takes a trial": begun.taken - search.at("prepared"),
        "until its first step": begun.first_step - begun.taken,
        "until the last lane takes its first": max(v.taken for v in first.values()) - begun.taken,
        "a report until its answer, median": statistics.median(answers),
        "a trial's last report to the next proposal": _median_gap(search, _proposed, of=_end),
        "a proposal until the lane takes it": _median(v.taken - _proposed(search, v) for v in later),
        "a trial taken until its first step": _median(v.first_step - v.taken for v in later),
        "closing": search.ended - max(visit.left for visit in search.visits),
    }
