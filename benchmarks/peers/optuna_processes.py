"""Optuna without Ray: processes that share a study in a journal file, as its tutorial advises.

https://optuna.readthedocs.io/en/stable/tutorial/10_key_features/004_distributed.html

SuccessiveHalvingPruner has the rungs of the others' ASHA, and is a little stricter: a trial must
be among the best 1/reduction of those that reached the rung, rounded down and itself included,
where Ray's ASHA compares it with the quantile of those before it. The processes are forked when
torch, the data and the judge's classifier are in memory, so that none of them imports anything.
"""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Mapping
from functools import partial

import numpy as np
import optuna
from optuna.pruners import SuccessiveHalvingPruner
from optuna.samplers import TPESampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from benchmarks.peers.task import Task
from stepsearch.errors import Diverged

_NAME = "search"


def objective(trial: optuna.Trial, task: Task) -> float:
    """Train one trial; its last value."""
    values: list[float] = []

    def report(metrics: Mapping[str, float]) -> bool:
        images_seen = int(metrics["images_seen"])
        values.append(metrics[task.metric])
        trial.report(values[-1], images_seen)
        if images_seen < task.budget and trial.should_prune():
            raise optuna.TrialPruned
        return True

    task.train(trial.number, task.suggest(trial), report)
    return values[-1]


def optimize_one(index: int, task: Task) -> None:
    """One more trial, in this process. A sampler of its own: two must not draw the same."""
    [seed] = np.random.SeedSequence((task.seed, index)).generate_state(1)
    study = optuna.load_study(
        study_name=_NAME,
        storage=_storage(task),
        sampler=TPESampler(n_startup_trials=task.startup, seed=int(seed)),
        pruner=SuccessiveHalvingPruner(
            min_resource=task.first_rung, reduction_factor=int(task.reduction)
        ),
    )
    study.optimize(partial(objective, task=task), n_trials=1, catch=(Diverged,))


def search(task: Task) -> None:
    task.prepare()
    study = optuna.create_study(study_name=_NAME, storage=_storage(task))
    for point in task.fixed():
        study.enqueue_trial(point)
    with multiprocessing.get_context("fork").Pool(task.lanes) as pool:
        pool.map(partial(optimize_one, task=task), range(task.trials), chunksize=1)


def _storage(task: Task) -> JournalStorage:
    return JournalStorage(JournalFileBackend(str(task.folder / "journal.log")))


if __name__ == "__main__":
    search(Task.read(sys.argv[1]))
