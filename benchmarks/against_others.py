"""What a search costs, and what it costs a person who does without stepsearch.

Four ways to do the default search (SpeeD's tau, k and lambda on scikit-learn's digits) with its
budget, rungs and start-up trials, two trials side by side:

    stepsearch  a search on lanes, its MLflow records, pictures and bundle included
    Ray guide   Ray Train nested in Ray Tune, with OptunaSearch and ASHA, as Ray documents it
    Optuna      processes that share a study, TPE and successive halving, without Ray
    random      processes that try random points, without any library or early stopping

All call the same training function with the same seed, milestones and evaluation, on one thread a
trial, and begin with the uniform baseline and the paper's setting. How each is written, and where
it differs from what its documentation shows, stands in benchmarks/peers. Each runs in a process
and a folder of its own, one after another, watched from its start to its end.

    python benchmarks/against_others.py [--quick] [--trials N] [--images N] [--seeds SEED ...]

--quick is 8 trials of 5120 images with 200 samples a score, instead of 16 of 38,400 with 1000; its
scores say nothing. There is a round a seed, and the last line is a JSON object with the medians
over the rounds, where null is "never". Two searches are never the same, since a proposal depends
on which results came before it: the time to a quality is partly luck, the cost of a thousand
images is not.

    wall_s, cpu_s       of all processes, from the start to the end
    first_report_s      from the start to the first report of any trial
    work_cpu_s          CPU-seconds of training and evaluation, as the trials report them
    peak_gib            memory of all processes together, shared pages counted once
    images              seen by all trials, up to the last report of each
    wall_s_per_kimg     wall_s over thousands of images, the start included; so cpu_s_per_kimg
    cpu_share           work_cpu_s over cpu_s
    lane_ratio          wall_s x trials side by side, over work_cpu_s
    best                fd_digits of the best finished trial
    best_feasible       the same among those whose off_manifold is not worse than the baseline's
                        by more than the default search allows
    wall_s_to_5         until a feasible trial finished within 5 % of the best_feasible that any of
                        the four found in this round; so cpu_s_to_5, and both _to_10
    others_cpu_s        what the rest of the machine used meanwhile
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from benchmarks.peers.measure import Measured, measure
from benchmarks.peers.task import Note, NotingTrainer, Task
from run_search import DEFAULT, load
from stepsearch.study import TpeConfig
from trainers.stopwatch import OF_THE_CLOCK

PEERS = {
    "stepsearch": "stepsearch_lanes.py",
    "Ray guide": "ray_guide.py",
    "Optuna": "optuna_processes.py",
    "random": "random_processes.py",
}
_IMPORTS = "import diffusers, matplotlib, mlflow, optuna, ray.train.torch, ray.tune, sklearn"
_NEVER = math.inf
_QUICK = {"budget.trials": 8, "budget.images": 5120, "trainer.judge.samples": 200}


@dataclass(frozen=True)
class Round:
    """All peers on one seed."""

    peers: Mapping[str, Measured]

    @classmethod
    def run(cls, task: Task, first: int) -> Round:
        """Run all peers, beginning with number `first`, and check that they trained the same."""
        names = list(PEERS)
        measured = {
            name: measure(
                Path(__file__).parent / "peers" / PEERS[name],
                task.model_copy(update={"folder": task.folder / PEERS[name]}),
            )
            for name in names[first:] + names[:first]
        }
        beginnings = [_beginning(peer) for peer in measured.values()]
        if any(beginning != beginnings[0] for beginning in beginnings):
            raise SystemExit("the trainings were not the same")
        return cls({name: measured[name] for name in names})

    def table(self) -> pd.DataFrame:
        """A column a peer, a row a number."""
        return pd.DataFrame({name: self._numbers(peer) for name, peer in self.peers.items()})

    def _numbers(self, peer: Measured) -> dict[str, float]:
        kimg = peer.images / 1000
        target = min(self._best(other) for other in self.peers.values())
        return {
            "wall_s": peer.wall_s,
            "cpu_s": peer.cpu_s,
            "first_report_s": peer.notes[0].at - peer.began,
            "work_cpu_s": peer.work_s,
            "peak_gib": peer.meter.peak_bytes / 2**30,
            "processes": peer.meter.most_processes,
            "trials_finished": len(peer.finished),
            "trials_stopped": peer.task.trials - len(peer.finished),
            "images": peer.images,
            "wall_s_per_kimg": peer.wall_s / kimg,
            "cpu_s_per_kimg": peer.cpu_s / kimg,
            "cpu_share": peer.work_s / peer.cpu_s,
            "lane_ratio": peer.wall_s * peer.task.lanes / peer.work_s,
            "best": min((_value(peer, note) for note in peer.finished), default=_NEVER),
            "best_feasible": self._best(peer),
            **self._until(peer, 1.10 * target, "to_10"),
            **self._until(peer, 1.05 * target, "to_5"),
            "others_cpu_s": peer.meter.others_cpu_s,
        }

    def _best(self, peer: Measured) -> float:
        return min((_value(peer, note) for note in self._feasible(peer)), default=_NEVER)

    def _feasible(self, peer: Measured) -> list[Note]:
        """The ends of the trials whose guarded metrics are hardly worse than the baseline's.

        The baseline is trial 0, and finished where nothing stops it early.
        """
        baseline = next(note for note in self.peers["random"].finished if note.trial == 0)
        guards = peer.task.trainer.guards()
        return [
            note
            for note in peer.finished
            if all(note.metrics[k] <= baseline.metrics[k] + more for k, more in guards.items())
        ]

    def _until(self, peer: Measured, target: float, suffix: str) -> dict[str, float]:
        good = [note.at for note in self._feasible(peer) if _value(peer, note) <= target]
        return {
            f"wall_s_{suffix}": good[0] - peer.began if good else _NEVER,
            f"cpu_s_{suffix}": peer.cpu_s_by(good[0]) if good else _NEVER,
        }

    def processes(self) -> pd.DataFrame:
        """CPU-seconds by what the processes were."""
        return pd.DataFrame({name: peer.meter.cpu_s for name, peer in self.peers.items()})


def _value(peer: Measured, note: Note) -> float:
    return note.metrics[peer.task.metric]


def _beginning(peer: Measured) -> dict[int, dict[str, float]]:
    """The first reports of the trials that every peer begins with, but for the clock's metrics."""
    fixed, first = range(len(peer.task.fixed())), peer.task.milestones[0]
    return {
        note.trial: {k: v for k, v in note.metrics.items() if k not in OF_THE_CLOCK}
        for note in peer.notes
        if note.trial in fixed and note.images_seen == first
    }


def _cell(values: npt.NDArray[np.float64]) -> str:
    """The median, and the range where there is one."""
    middle, low, high = (_text(f(values)) for f in (np.median, np.min, np.max))
    return middle if low == high else f"{middle} ({low}-{high})"


def _text(value: float) -> str:
    if value == _NEVER:
        return "never"
    return f"{value:,.0f}" if value >= 1e4 else f"{value:.4g}"


def _show(tables: list[pd.DataFrame]) -> None:
    values = np.stack([table.to_numpy(dtype=np.float64) for table in tables], axis=-1)
    cells = [[_cell(each) for each in row] for row in values]
    print(pd.DataFrame(cells, tables[0].index, tables[0].columns).to_string())


def _medians(tables: list[pd.DataFrame]) -> dict[str, dict[str, float | None]]:
    values = np.median([table.to_numpy(dtype=np.float64) for table in tables], axis=0)
    frame = pd.DataFrame(values, tables[0].index, tables[0].columns)
    return {
        str(peer): {str(k): round(v, 3) if v < _NEVER else None for k, v in column.items()}
        for peer, column in frame.items()
    }


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small trials, about ten minutes")
    parser.add_argument("--trials", type=int, help="trials of a search")
    parser.add_argument("--images", type=int, help="images of a finished trial")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="one round each")
    return parser.parse_args()


def _task(arguments: argparse.Namespace, folder: Path, seed: int) -> Task:
    """The default search, or what the arguments make of it."""
    changes = dict(_QUICK) if arguments.quick else {}
    said = {f"budget.{key}": getattr(arguments, key) for key in ("trials", "images")}
    changes |= {key: value for key, value in said.items() if value is not None}
    search = load(DEFAULT, [f"{key}={value}" for key, value in changes.items()])
    tpe = TpeConfig.model_validate(search.optuna_sampler.model_dump())
    return Task(
        folder=folder,
        space=search.space,
        trainer=NotingTrainer.model_validate(search.trainer.model_dump()),
        seed=seed,
        trials=search.budget.trials,
        milestones=search.budget.milestones(),
        startup=tpe.n_startup_trials,
        reduction=search.trial_scheduler.reduction,
        first_rung=search.trial_scheduler.first_rung(search.budget),
    )


def main() -> None:
    arguments = _arguments()
    os.environ["OMP_NUM_THREADS"] = "1"  # NumPy's too; Ray sets it in its workers anyway
    subprocess.run([sys.executable, "-c", _IMPORTS], check=True)  # into the file cache
    tables = []
    for i, seed in enumerate(arguments.seeds):
        with tempfile.TemporaryDirectory() as folder:
            task = _task(arguments, Path(folder), seed)
            measured = Round.run(task, first=i % len(PEERS))
        tables.append(measured.table())
        print(f"\nseed {seed}")
        _show(tables[-1:])
        print("\nCPU-seconds by process")
        print(measured.processes().to_string(float_format="%.1f", na_rep=""))
    if len(tables) > 1:
        print("\nmedian (lowest-highest) over the seeds")
        _show(tables)
    result: dict[str, Any] = {"benchmark": "against_others", "seeds": arguments.seeds}
    result |= {"trials": task.trials, "images": task.budget, "peers": _medians(tables)}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
