"""stepsearch: a search with its records, pictures and bundle, but no repeats on other seeds.

Unlike the others it never stops the uniform baseline and the paper's setting early, and it tells
Optuna which trials are worse than the baseline by the guarded metrics.
"""

from __future__ import annotations

import sys

from benchmarks.peers.task import Task
from stepsearch.cluster import LanesConfig
from stepsearch.search.config import (
    BudgetConfig,
    FinalistsConfig,
    SearchConfig,
    TrialSchedulerConfig,
)
from stepsearch.search.driver import launch
from stepsearch.study import TpeConfig


def search(task: Task) -> None:
    launch(
        SearchConfig(
            name="search",
            space=task.space,
            trainer=task.trainer,
            storage=task.folder,
            seed=task.seed,
            budget=BudgetConfig(
                trials=task.trials, images=task.budget, reports=len(task.milestones)
            ),
            lanes=LanesConfig(count=task.lanes),
            optuna_sampler=TpeConfig(n_startup_trials=task.startup),
            trial_scheduler=TrialSchedulerConfig(
                kind="asha", reduction=task.reduction, grace=task.first_rung / task.budget
            ),
            finalists=FinalistsConfig(count=0),
        )
    )


if __name__ == "__main__":
    search(Task.read(sys.argv[1]))
