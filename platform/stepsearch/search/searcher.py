"""The searcher: Ray Tune asks it for trials and tells it how they went."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from ray import cloudpickle
from ray.exceptions import RayError
from ray.tune import Stopper
from ray.tune.search import Searcher

from stepsearch.search.agenda import Agenda
from stepsearch.search.leaderboard import PROTECTED
from stepsearch.search.recorder import Recorder
from stepsearch.search.trial import Trial
from stepsearch.study import Proposal


class StudySearcher(Searcher):
    """Passes the agenda's trials to Tune, and what becomes of them to the recorder.

    It keeps no state of its own that a resumed search would need: the study has it. Once it is
    `cut_off`, since the engine is broken, nothing that Tune says is recorded any more.
    """

    def __init__(
        self,
        agenda: Agenda,
        recorder: Recorder,
        make_trial: Callable[[Proposal], Trial],
        dispatcher: Any,
        dispatcher_name: str,
        open_lanes: Callable[[], int],
        stopping: threading.Event,
        cut_off: threading.Event,
    ) -> None:
        super().__init__()
        self._agenda, self._recorder, self._make_trial = agenda, recorder, make_trial
        self._dispatcher, self._dispatcher_name = dispatcher, dispatcher_name
        self._open_lanes = open_lanes
        self._numbers: dict[str, int] = {}
        self._running: set[str] = set()
        self.stopping, self.cut_off = stopping, cut_off
        self.failure: Exception | None = None

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """The configuration of LaneTrial: where the trial is to be found, not what it is.

        None while there is no lane for one: a proposal that waits knows less than a later one.
        """
        if self.stopping.is_set():
            return str(Searcher.FINISHED)
        if len(self._running) >= self._open_lanes():
            return None
        proposal = trial = None
        with self._recording():
            proposal = self._agenda.next()
            if proposal is not None:
                trial = self._make_trial(proposal)
                self._recorder.started(proposal, trial)
        if self.failure is not None:
            return None
        if proposal is None or trial is None:
            return Searcher.FINISHED if self._agenda.exhausted else None
        self._numbers[trial_id] = trial.number
        self._running.add(trial_id)
        sealed = cloudpickle.dumps(trial)
        try:
            ray.get(self._dispatcher.offer.remote(trial.number, trial.budget, sealed))
        except RayError:
            self.cut_off.set()
            return None
        protected = proposal.attrs.get("role") in PROTECTED
        return {
            "dispatcher": self._dispatcher_name,
            "number": trial.number,
            "protected": protected,
        }

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        if not self.cut_off.is_set():
            with self._recording():
                self._report(self._numbers[trial_id], result)

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """The result carries an outcome, unless the trial scheduler stopped the trial.

        An error is not the trial's: its actor died while it started, which Tune does not retry.
        """
        if error:
            self.cut_off.set()
        if self.cut_off.is_set():
            return
        number, last = self._numbers[trial_id], result or {}
        self._running.discard(trial_id)
        self._dispatcher.stop.remote(number)
        outcome = last.get("outcome", "pruned")
        if outcome == "interrupted":  # by a pause, whoever asked for it
            self.stopping.set()
        with self._recording():
            self._report(number, last)
            self._recorder.ended(number, outcome, last.get("reason"), last.get("infeasible"))

    @contextmanager
    def _recording(self) -> Iterator[None]:
        """What cannot be begun or recorded (the disk is full, say) stops the search: Tune swallows
        the error of a record and would go on blindly, and ends at once with that of a proposal.
        The trials save checkpoints and can be resumed."""
        try:
            yield
        except Exception as error:
            self.failure = self.failure or error
            self.stopping.set()
            self._dispatcher.pause.remote()

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune pickles its arguments for a restore that we do not use."""
        return {}

    def save(self, checkpoint_path: str) -> None:
        Path(checkpoint_path).touch()

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: see the class."""

    def _report(self, number: int, result: dict[str, Any]) -> None:
        if "metrics" in result:
            self._recorder.reported(number, result["images_seen"], dict(result["metrics"]))


class CutOff(Stopper):
    """Ends Ray Tune's run when the engine is broken."""

    def __init__(self, cut_off: threading.Event) -> None:
        self._cut_off = cut_off

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self._cut_off.is_set()

    def __getstate__(self) -> dict[str, Any]:
        """Nothing, as for the searcher."""
        return {}
