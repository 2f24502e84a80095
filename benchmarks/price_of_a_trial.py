"""What a trial costs over its training: the same trainings with and without the engine.

Eight short trials (80 steps of 64 digits and four small evaluations each) run

    plain     one after another in one Python process on one thread, without Ray
    2 lanes   as a search on two lanes, none stopped early
    1 lane    the same on one lane
    asha      on two lanes with early stopping, for stop_to_next_s only
    2 workers on one lane of two workers that train each trial together, for next_trial_s only

each in a process and a storage of its own. The first three do the same trainings: their metrics
must be equal to the last digit. A round takes about four minutes on two quiet cores.

    python benchmarks/price_of_a_trial.py [--quick]

--quick is one round instead of three. The last line is a JSON object; its numbers are medians over
the rounds:

    first_trial_s   from the start of the process to the first training step, on two lanes
    next_trial_s    from Optuna's proposal to the first training step, for all later trials
    next_trial_2_s  the same where a lane has two workers
    stop_to_next_s  from the report at which a trial is stopped early to the next one's first step
    wall_ratio      wall time on two lanes over plain's
    lane_ratio      wall time x lanes over plain's, for each number of lanes
    cpu_share       CPU-seconds of training and evaluation over all CPU-seconds, on two lanes
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import optuna

from benchmarks import stamps
from benchmarks.bare import Training, train, trainings
from benchmarks.meter import Meter
from benchmarks.stamps import Stamp, StampedTrainer, Visit, stamp
from search_spaces.speed import SpeedSpace
from stepsearch.cluster import LanesConfig
from stepsearch.evaluation.judge_config import JudgeConfig
from stepsearch.search.board import Board, Silent
from stepsearch.search.config import (
    BudgetConfig,
    FinalistsConfig,
    SearchConfig,
    TrialSchedulerConfig,
)
from stepsearch.search.driver import launch
from stepsearch.study import RandomConfig
from trainers.stopwatch import OF_THE_CLOCK

NAME = "price"


def configuration(storage: Path, lanes: int, workers: int = 1, **scheduler: Any) -> SearchConfig:
    """Random proposals depend on nothing that was measured: they are the same every time."""
    return SearchConfig(
        name=NAME,
        space=SpeedSpace(),
        trainer=StampedTrainer(judge=JudgeConfig(samples=200)),
        storage=storage,
        budget=BudgetConfig(trials=8, images=5120),
        lanes=LanesConfig(count=lanes, workers=workers),
        optuna_sampler=RandomConfig(),
        trial_scheduler=TrialSchedulerConfig(**scheduler),
        finalists=FinalistsConfig(count=0),
    )


def on_lanes(storage: Path, lanes: int, scheduler: str, workers: int = 1) -> None:
    """The search; runs in a process of its own."""
    launch(configuration(storage, lanes, workers, kind=scheduler), _Watcher())


class _Watcher(Silent):
    def show(self, board: Board) -> None:
        stamp("connected")


def plain(storage: Path, work: Sequence[Training]) -> None:
    """The trainings of a search without the engine; runs in a process of its own."""
    train(configuration(storage, 1), work, storage / NAME)


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
        names = ("train_cpu_s", "evaluation_cpu_s")
        return float(sum(row["metrics"][name] for row in self.reports for name in names))

    @property
    def cpu_s(self) -> float:
        return sum(self.meter.cpu_s.values())

    @property
    def outcome(self) -> list[tuple[int, dict[str, float]]]:
        """What the trainings came to: all metrics but those of the clock, by trial."""
        rows = [
            (row["trial"], {k: v for k, v in row["metrics"].items() if k not in OF_THE_CLOCK})
            for row in self.reports
        ]
        return sorted(rows, key=lambda row: (row[0], row[1]["images_seen"]))

    @cached_property
    def visits(self) -> list[Visit]:
        return stamps.visits(self.stamps)

    def at(self, event: str) -> float:
        return next(stamp.at for stamp in self.stamps if stamp.event == event)

    def proposed(self, visit: Visit) -> float:
        start = self.trials[visit.trial].datetime_start
        return start.timestamp() if start else float("nan")

    def neighbours(self) -> list[tuple[Visit, Visit]]:
        """Pairs of trials that were on a lane one right after the other."""
        lanes = {visit.process for visit in self.visits}
        return [
            pair
            for lane in lanes
            for pair in pairwise(visit for visit in self.visits if visit.process == lane)
        ]

    def stopped(self, visit: Visit) -> bool:
        return self.trials[visit.trial].state is optuna.trial.TrialState.PRUNED


def measure(way: Callable[..., None], *arguments: Any) -> Measured:
    """Run one of the ways in a new process and a new storage."""
    with tempfile.TemporaryDirectory() as folder:
        storage = Path(folder)
        os.environ[stamps.FILE] = str(storage / "stamps.jsonl")
        with Meter() as meter:
            began = time.time()
            context = multiprocessing.get_context("spawn")
            process = context.Process(target=way, args=(storage, *arguments))
            process.start()
            process.join()
            ended = time.time()
        if process.exitcode:
            raise SystemExit(f"{way.__name__} ended with {process.exitcode}")
        history, study = storage / NAME / "history.jsonl", storage / NAME / "study.db"
        return Measured(
            began,
            ended,
            stamps.read(storage / "stamps.jsonl"),
            meter,
            [json.loads(line) for line in history.read_text().splitlines()],
            _trials(study) if study.exists() else [],
        )


def _trials(study: Path) -> list[optuna.trial.FrozenTrial]:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna.load_study(study_name=NAME, storage=f"sqlite:///{study}").trials


def next_trials(search: Measured) -> list[float]:
    """From the proposal to the first step, but for each lane's first trial."""
    return [after.first_step - search.proposed(after) for _, after in search.neighbours()]


def stops(search: Measured) -> list[float]:
    """From the report at which a trial was stopped to the next one's first step."""
    pairs = search.neighbours()
    return [b.first_step - a.reported[-1] for a, b in pairs if search.stopped(a)]


def phases(search: Measured) -> dict[str, float]:
    """Where the time goes, in seconds, in the order in which it goes there."""
    pairs, begun = search.neighbours(), search.visits[0]
    firsts = {visit.process: visit for visit in reversed(search.visits)}.values()
    answers = [
        b - a
        for visit in search.visits
        for a, b in zip(visit.reported[:-1], visit.answered, strict=False)
    ]
    return {
        "imports, checks, Ray, study, MLflow": search.at("connected") - search.began,
        "a lane takes the first trial": begun.taken - search.at("connected"),
        "its first step": begun.first_step - begun.taken,
        "last lane's first step after that": max(v.first_step for v in firsts) - begun.first_step,
        "judge prepared, from the start": search.at("prepared") - search.began,
        "a report's answer": _median(answers),
        "a trial's last report to the next proposal": _median(
            search.proposed(b) - a.reported[-1] for a, b in pairs
        ),
        "a proposal until a lane takes it": _median(
            b.taken - search.proposed(b) for _, b in pairs
        ),
        "a trial taken until its first step": _median(b.first_step - b.taken for _, b in pairs),
        "closing": search.ended - max(visit.left for visit in search.visits),
    }


def _median(values: Iterable[float]) -> float:
    return statistics.median([*values] or [float("nan")])


@dataclass(frozen=True)
class Round:
    """All ways, one after another."""

    two: Measured
    plain: Measured
    one: Measured
    asha: Measured
    pairs: Measured

    @classmethod
    def run(cls) -> Round:
        two = measure(on_lanes, 2, "fifo")
        bare, one = measure(plain, trainings(two.trials)), measure(on_lanes, 1, "fifo")
        if not two.outcome == bare.outcome == one.outcome:
            raise SystemExit("the trainings were not the same")
        asha, pairs = measure(on_lanes, 2, "asha"), measure(on_lanes, 1, "fifo", 2)
        return cls(two, bare, one, asha, pairs)

    def summary(self) -> dict[str, float]:
        plain = self.plain.wall_s
        return {
            "first_trial_s": self.two.visits[0].first_step - self.two.began,
            "next_trial_s": _median(next_trials(self.two) + next_trials(self.one)),
            "next_trial_2_s": _median(next_trials(self.pairs)),
            "stop_to_next_s": _median(stops(self.asha)),
            "wall_ratio": self.two.wall_s / plain,
            "lane_ratio_2": 2 * self.two.wall_s / plain,
            "lane_ratio_1": self.one.wall_s / plain,
            "cpu_share": self.two.work_s / self.two.cpu_s,
        }

    def show(self) -> None:
        ways = {"plain": self.plain, "2 lanes": self.two, "1 lane": self.one}
        print(f"\n{'':44s}" + "".join(f"{name:>9s}" for name in ways))
        rows: dict[str, Callable[[Measured], float]] = {
            "wall time, s": lambda way: way.wall_s,
            "CPU-seconds": lambda way: way.cpu_s,
            "CPU-seconds of training and evaluation": lambda way: way.work_s,
            "peak memory, GiB": lambda way: way.meter.peak_bytes / 2**30,
            "processes": lambda way: way.meter.most_processes,
            "CPU-seconds of others on this machine": lambda way: way.meter.others_cpu_s,
        }
        for name, value in rows.items():
            _row(name, [value(way) for way in ways.values()], digits=1)
        on_two, on_one = phases(self.two), phases(self.one)
        for name in on_two:
            _row(name, [float("nan"), on_two[name], on_one[name]], digits=2)
        print("\nCPU-seconds on 2 lanes")
        for name, seconds in self.two.meter.cpu_s.items():
            _row(f"  {name}", [seconds], digits=1)


def _row(name: str, values: Sequence[float], digits: int) -> None:
    cells = ("" if value != value else f"{value:.{digits}f}" for value in values)
    print(f"{name:44s}" + "".join(f"{cell:>9s}" for cell in cells))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one round, about four minutes")
    rounds = []
    for _ in range(1 if parser.parse_args().quick else 3):
        rounds.append(Round.run())
        rounds[-1].show()
    summaries = [each.summary() for each in rounds]
    print()
    result: dict[str, Any] = {"benchmark": "price_of_a_trial", "rounds": len(rounds)}
    for name in summaries[0]:
        values = [summary[name] for summary in summaries]
        result[name] = round(statistics.median(values), 3)
        print(f"{name:16s}{result[name]:8.3f}   ({min(values):.3f} to {max(values):.3f})")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
