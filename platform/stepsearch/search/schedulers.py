"""Trial schedulers: which of Ray Tune's decide early stopping, on `images_seen`."""

from __future__ import annotations

from dataclasses import dataclass
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

    The first rung is the first report after the grace: how much a report says about the end
    depends on its share of the images, and `simulate` tells for recorded curves.
    """
    first, last = config.first_rung(budget), budget.images
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
    playback = Playback(scheduler, metric)
    playback.add(name, protected=False)
    for images_seen, value in sorted(curve.items()):
        playback.stops(name, images_seen, value)
    playback.remove(name)


@dataclass(frozen=True, eq=False)
class _Played:
    """A trial as a trial scheduler sees it."""

    trial_id: str
    config: dict[str, bool]


class Playback:
    """Asks a trial scheduler, as Ray Tune does, about trials that no Ray Tune runs."""

    def __init__(self, scheduler: TrialScheduler, metric: str) -> None:
        self._scheduler, self._metric = scheduler, metric
        self._trials: dict[str, Any] = {}

    def add(self, name: str, *, protected: bool) -> None:
        self._trials[name] = _Played(name, {"protected": protected})
        self._scheduler.on_trial_add(self, self._trials[name])  # type: ignore[arg-type]

    def stops(self, name: str, images_seen: int, value: float) -> bool:
        """Whether a report that is not the trial's last one ends it; `complete` it then."""
        trial, result = self._trials[name], self._result(images_seen, value)
        return bool(self._scheduler.on_trial_result(self, trial, result) == TrialScheduler.STOP)  # type: ignore[arg-type]

    def complete(self, name: str, images_seen: int, value: float) -> None:
        """The trial is over; this was its last report."""
        trial, result = self._trials.pop(name), self._result(images_seen, value)
        self._scheduler.on_trial_complete(self, trial, result)  # type: ignore[arg-type]

    def remove(self, name: str) -> None:
        """The trial is over without a last report."""
        self._scheduler.on_trial_remove(self, self._trials.pop(name))  # type: ignore[arg-type]

    def get_live_trials(self) -> list[Any]:
        """What the median rule asks Ray Tune's controller for: nobody waits for a place."""
        return []

    def _result(self, images_seen: int, value: float) -> dict[str, float]:
        return {"images_seen": images_seen, self._metric: value}
