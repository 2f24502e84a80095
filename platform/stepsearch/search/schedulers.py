"""Trial schedulers: which of Ray Tune's decide early stopping, on `images_seen`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import defaultdict
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
        return _FairASHA(
            time_attr="images_seen",
            metric=primary.name,
            mode=mode,
            grace_period=first,
            reduction_factor=config.reduction,
            max_t=last + 1,  # ASHA stops a trial that reaches max_t: ours end by themselves
        )
    if config.kind == "median":
        return _FairMedian(
            time_attr="images_seen",
            metric=primary.name,
            mode=mode,
            grace_period=first,
            min_samples_required=config.min_trials,
            hard_stop=True,
        )
    return FIFOScheduler()


@dataclass(frozen=True)
class _Numbered:
    """A trial by its number in the search: Ray Tune's own id is another one after a resume."""

    trial_id: str


class _Fair(ABC):
    """A rule of Ray Tune's that an interruption changes nothing for, and that spares some trials.

    Each report of a trial is counted once: a resumed one may repeat its last report, on which was
    decided already. Trials that others are compared with, fixed points and repeats, run to their
    budget; their results still count for what happens to the others. A lane does not pause a
    trial: what would be paused goes on.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self._counted: defaultdict[_Numbered, set[int]] = defaultdict(set)

    def on_trial_add(self, controller: Any, trial: TuneTrial) -> None:
        super().on_trial_add(controller, _numbered(trial))  # type: ignore[misc]

    def on_trial_result(self, controller: Any, trial: TuneTrial, result: dict[str, Any]) -> str:
        numbered = _numbered(trial)
        if not self._is_new(numbered, result):
            return str(TrialScheduler.CONTINUE)
        if trial.config["protected"]:
            self._count(controller, numbered, result)
            return str(TrialScheduler.CONTINUE)
        decision: str = super().on_trial_result(controller, numbered, result)  # type: ignore[misc]
        stops = decision == TrialScheduler.STOP
        return str(TrialScheduler.STOP if stops else TrialScheduler.CONTINUE)

    def on_trial_complete(self, controller: Any, trial: TuneTrial, result: dict[str, Any]) -> None:
        """Without a report, as of a trial that diverged, there is nothing to count."""
        numbered = _numbered(trial)
        if self._is_new(numbered, result):
            self._count(controller, numbered, result)
        super().on_trial_remove(controller, numbered)  # type: ignore[misc]

    def on_trial_remove(self, controller: Any, trial: TuneTrial) -> None:
        super().on_trial_remove(controller, _numbered(trial))  # type: ignore[misc]

    def _is_new(self, trial: _Numbered, result: dict[str, Any]) -> bool:
        """Whether this report is to be counted; once."""
        images_seen, counted = result.get("images_seen"), self._counted[trial]
        if images_seen is None or images_seen in counted:
            return False
        counted.add(images_seen)
        return True

    @abstractmethod
    def _count(self, controller: Any, trial: _Numbered, result: dict[str, Any]) -> None:
        """Let the rule know a report that it does not judge."""


class _FairASHA(_Fair, AsyncHyperBandScheduler):
    """ASHA: a rung holds one report a trial."""

    def _count(self, controller: Any, trial: _Numbered, result: dict[str, Any]) -> None:
        AsyncHyperBandScheduler.on_trial_result(self, controller, trial, result)  # type: ignore[arg-type]


class _FairMedian(_Fair, MedianStoppingRule):
    """The median stopping rule: it knows every report of all trials, of those that ended too."""

    def _count(self, controller: Any, trial: _Numbered, result: dict[str, Any]) -> None:
        # Without a judgement: Ray Tune's rule fails when a trial that it stopped goes on.
        MedianStoppingRule.on_trial_complete(self, controller, trial, result)  # type: ignore[arg-type]


def _numbered(trial: TuneTrial) -> _Numbered:
    return _Numbered(str(trial.config["number"]))


def replay(scheduler: TrialScheduler, number: int, curve: dict[int, float], metric: str) -> None:
    """Tell a new trial scheduler what a trial of an interrupted search had reported.

    What was decided on it then is not decided again, and the trial may go on under its number.
    """
    playback = Playback(scheduler, metric)
    playback.add(number, protected=True)
    for images_seen, value in sorted(curve.items()):
        playback.stops(number, images_seen, value)
    playback.remove(number)


@dataclass(frozen=True, eq=False)
class _Played:
    """A trial as a trial scheduler sees it."""

    trial_id: str
    config: dict[str, Any]


class Playback:
    """Asks a trial scheduler, as Ray Tune does, about trials that no Ray Tune runs."""

    def __init__(self, scheduler: TrialScheduler, metric: str) -> None:
        self._scheduler, self._metric = scheduler, metric
        self._trials: dict[int, Any] = {}

    def add(self, number: int, *, protected: bool) -> None:
        played = _Played(str(number), {"number": number, "protected": protected})
        self._trials[number] = played
        self._scheduler.on_trial_add(self, played)  # type: ignore[arg-type]

    def stops(self, number: int, images_seen: int, value: float) -> bool:
        """Whether a report that is not the trial's last one ends it; `complete` it then."""
        trial, result = self._trials[number], self._result(images_seen, value)
        return bool(self._scheduler.on_trial_result(self, trial, result) == TrialScheduler.STOP)  # type: ignore[arg-type]

    def complete(self, number: int, images_seen: int, value: float) -> None:
        """The trial is over; this was its last report."""
        trial, result = self._trials.pop(number), self._result(images_seen, value)
        self._scheduler.on_trial_complete(self, trial, result)  # type: ignore[arg-type]

    def remove(self, number: int) -> None:
        """The trial is over without a last report."""
        self._scheduler.on_trial_remove(self, self._trials.pop(number))  # type: ignore[arg-type]

    def get_live_trials(self) -> list[Any]:
        """What the median rule asks Ray Tune's controller for: nobody waits for a place."""
        return []

    def _result(self, images_seen: int, value: float) -> dict[str, float]:
        return {"images_seen": images_seen, self._metric: value}
