"""Trial schedulers: which of Ray Tune's decide early stopping, on `images_seen`."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from ray.tune.experiment import Trial as TuneTrial
from ray.tune.schedulers import (
    AsyncHyperBandScheduler,
    FIFOScheduler,
    MedianStoppingRule,
    TrialScheduler,
)

from stepsearch.search.config import BudgetConfig, TrialSchedulerConfig
from stepsearch.study import Objective


def trial_scheduler(
    config: TrialSchedulerConfig, budget: BudgetConfig, primary: Objective
) -> TrialScheduler:
    """The trial scheduler of a search; it decides on the primary objective only.

    The first rung is the first report, which the budget puts at a quarter of the images by
    default: earlier than that a rung says little about the end (docs/results).
    """
    first, *_, last = budget.milestones() * 2
    mode = {"minimize": "min", "maximize": "max"}[primary.direction]
    if config.kind == "asha":
        return _ProtectingASHA(
            time_attr="images_seen",
            metric=primary.name,
            mode=mode,
            grace_period=first,
            reduction_factor=config.reduction,
            max_t=last + 1,  # ASHA stops a trial that reaches max_t: ours end by themselves
        )
    if config.kind == "median":
        return _ProtectingMedian(
            time_attr="images_seen",
            metric=primary.name,
            mode=mode,
            grace_period=first,
            min_samples_required=config.min_trials,
            hard_stop=True,
        )
    return FIFOScheduler()


class _Protecting:
    """Lets trials that others are compared with run to their budget: fixed points and repeats.

    Their results still count for what happens to the others. A lane does not pause a trial: what
    would be paused goes on.
    """

    def on_trial_result(self, controller: Any, trial: TuneTrial, result: dict[str, Any]) -> str:
        decision: str = super().on_trial_result(controller, trial, result)  # type: ignore[misc]
        if decision == TrialScheduler.STOP and not trial.config["protected"]:
            return decision
        return str(TrialScheduler.CONTINUE)


class _ProtectingASHA(_Protecting, AsyncHyperBandScheduler):
    """ASHA with protected trials."""


class _ProtectingMedian(_Protecting, MedianStoppingRule):
    """The median stopping rule with protected trials."""


def replay(scheduler: TrialScheduler, curve: dict[int, float], name: str, metric: str) -> None:
    """Tell a new trial scheduler what a trial of an interrupted search had reported."""
    if not isinstance(scheduler, _ProtectingASHA):
        return  # the median rule compares running averages of live trials only
    trial = SimpleNamespace(trial_id=name, config={"protected": False})
    scheduler.on_trial_add(None, trial)
    for images_seen, value in sorted(curve.items()):
        scheduler.on_trial_result(None, trial, {"images_seen": images_seen, metric: value})
    scheduler.on_trial_remove(None, trial)
