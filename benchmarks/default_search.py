"""What the default search costs: wall time, CPU-seconds and memory, and where they go.

Runs `python run_search.py run` as a user does, in a temporary storage, and watches all of its
processes from outside. Then it does all of the search's trainings and evaluations again, bare: in
one plain process on one thread, one after another. Takes about ten minutes on two cores.

    python benchmarks/default_search.py [--set KEY=VALUE ...]

`wall_ratio` is the search's wall time over the bare one's share of a lane: 1 is a search that
costs nothing but its trainings, in perfectly filled lanes.

Training and evaluation are the CPU-seconds that the trials report. A lane is with a trial from the
moment Optuna proposes it until Optuna is told how it ended. The last line is a JSON object.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import optuna

from benchmarks.bare import Training, train, trainings
from benchmarks.meter import Meter
from run_search import find
from stepsearch.search.folder import SearchFolder, names
from stepsearch.study.records import record

CLI = Path(__file__).parents[1] / "run_search.py"


@dataclass(frozen=True)
class Search:
    """A search that has been run, seen from outside. Times are those of `time.time`."""

    folder: SearchFolder
    began: float
    first_report: float
    ended: float

    @cached_property
    def trials(self) -> list[optuna.trial.FrozenTrial]:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        study = f"sqlite:///{self.folder.study}"
        return optuna.load_study(study_name=self.folder.path.name, storage=study).trials

    @cached_property
    def reports(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.folder.history.read_text().splitlines()]

    @cached_property
    def lanes(self) -> int:
        return len({path.name.split("-")[1] for path in self.folder.lanes.glob("lane-*")})

    @property
    def wall_s(self) -> float:
        return self.ended - self.began

    @property
    def outcomes(self) -> Counter[str]:
        return Counter(record(trial).outcome or "unfinished" for trial in self.trials)

    @property
    def images(self) -> int:
        return sum({row["trial"]: row["images_seen"] for row in self.reports}.values())

    def total(self, metric: str) -> float:
        """The sum of a metric over all reports."""
        return float(sum(row["metrics"][metric] for row in self.reports))

    @property
    def first_step(self) -> float:
        """When the first step began: the first report, less the work that it reports."""
        metrics = self.reports[0]["metrics"]
        return float(self.first_report - metrics["train_cpu_s"] - metrics["evaluation_cpu_s"])

    def lane_seconds(self) -> dict[str, float]:
        """What the lanes did with their time; the sum is lanes x wall time."""
        spans = [
            (max(self.first_step, trial.datetime_start.timestamp()), end.timestamp())
            for trial in self.trials
            if trial.datetime_start and (end := trial.datetime_complete)
        ]
        last = max(end for _, end in spans)
        with_trial = sum(end - begin for begin, end in spans)
        train, evaluation = self.total("train_cpu_s"), self.total("evaluation_cpu_s")
        return {
            "starting, until the first step": self.lanes * (self.first_step - self.began),
            "training": train,
            "evaluation": evaluation,
            "with a trial, otherwise": with_trial - train - evaluation,
            "without a trial": self.lanes * (last - self.first_step) - with_trial,
            "closing": self.lanes * (self.ended - last),
        }


def run(storage: Path, sets: list[str]) -> Search:
    """Run the default search with the CLI. Raises CalledProcessError, its output printed."""
    command = [sys.executable, str(CLI), "run"]
    for text in [f"storage={storage}", *sets]:
        command += ["--set", text]
    first_report, began = 0.0, time.time()
    with (storage / "output").open("w+") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        while process.poll() is None:
            time.sleep(0.1)
            if not first_report and list(storage.glob("*/history.jsonl")):
                first_report = time.time()
        ended = time.time()
        if process.returncode:
            output.seek(0)
            print(output.read(), file=sys.stderr)
            raise subprocess.CalledProcessError(process.returncode, command)
    [name] = names(storage)
    return Search(SearchFolder.find(storage, name), began, first_report, ended)


def bare_s(search: Search) -> float:
    """Seconds of the search's trainings and evaluations in one process, its imports left out."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        storage = search.folder.path.parent
        return pool.submit(
            _bare, storage, search.folder.path.name, trainings(search.trials)
        ).result()


def _bare(storage: Path, name: str, work: list[Training]) -> float:
    with tempfile.TemporaryDirectory() as folder:
        config = find(name, storage)
        train(config, work[:0], Path(folder))  # imports, and the judge's classifier
        began = time.perf_counter()
        train(config, work, Path(folder))
        return time.perf_counter() - began


def summary(search: Search, meter: Meter, bare: float) -> dict[str, Any]:
    """The numbers of the last line."""
    trained, judged = search.total("train_cpu_s"), search.total("evaluation_cpu_s")
    all_cpu_s = sum(meter.cpu_s.values())
    return {
        "benchmark": "default_search",
        "wall_s": round(search.wall_s, 1),
        "first_step_s": round(search.first_step - search.began, 1),
        "trials": dict(search.outcomes),
        "images": search.images,
        "lanes": search.lanes,
        "bare_s": round(bare, 1),
        "wall_ratio": round(search.wall_s / (bare / search.lanes), 3),
        "train_cpu_s": round(trained, 1),
        "evaluation_cpu_s": round(judged, 1),
        "all_cpu_s": round(all_cpu_s, 1),
        "train_share": round(trained / all_cpu_s, 3),
        "cpu_share": round((trained + judged) / all_cpu_s, 3),
        "peak_gib": round(meter.peak_bytes / 2**30, 2),
        "processes": meter.most_processes,
        "others_cpu_s": round(meter.others_cpu_s, 1),
    }


def show(title: str, parts: Mapping[str, float]) -> None:
    whole = sum(parts.values())
    print(f"\n{title}: {whole:.1f}")
    for name, value in parts.items():
        print(f"  {name:40s} {value:8.1f} {value / whole:7.1%}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    sets = parser.parse_args().set
    with tempfile.TemporaryDirectory() as storage:
        with Meter() as meter:
            search = run(Path(storage), sets)
        lane_seconds, bare = search.lane_seconds(), bare_s(search)
        result = summary(search, meter, bare)
    for name, value in result.items():
        print(f"{name:18s} {value}")
    show("CPU-seconds", meter.cpu_s)
    show("lane-seconds", lane_seconds)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
