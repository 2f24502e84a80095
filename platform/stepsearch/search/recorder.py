"""The recorder: writes each event of a trial to Optuna, MLflow, the disk and the board, once."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from stepsearch.search.board import Board, Entry, View, describe
from stepsearch.search.history import History, Metrics
from stepsearch.search.leaderboard import BASELINE, PROPOSAL, last_excess
from stepsearch.search.mirror import Mirror
from stepsearch.search.spending import Spending
from stepsearch.search.trial import Trial
from stepsearch.study import Proposal, Study
from stepsearch.tracking import Run, Tracker, trial_name

_ENDED = {"finished": "✓", "pruned": "✂", "diverged": "✗", "error": "✗", "interrupted": "‖"}
_FAILED = ("diverged", "error")


class Recorder:
    """The one writer of a search's records, in the words of the design's table of states.

    An event that was recorded before (its sender died before it knew) changes nothing. Each is
    written last where its trial is read from on resume: if the driver dies halfway, the resumed
    trial repeats the event, and those who know it already leave it out.
    """

    def __init__(
        self,
        study: Study,
        tracker: Tracker,
        history: History,
        board: Board,
        view: View,
        guards: Mapping[str, float],
        spending: Spending,
        mirror: Mirror,
    ) -> None:
        self._study, self._tracker = study, tracker
        self._history, self._board, self._view = history, board, view
        self._guards, self._spending, self._mirror = guards, spending, mirror
        self._objectives = study.settings.objectives
        self._primary = self._objectives[0]
        self._runs: dict[int, tuple[Run, Trial]] = {}
        self._artist = ThreadPoolExecutor(1, thread_name_prefix="artist")

    def started(self, proposal: Proposal, trial: Trial) -> None:
        """A trial is about to be trained, for the first time or again."""
        attrs = proposal.attrs
        label = attrs.get("label") or describe(proposal.params)
        role = attrs.get("role", PROPOSAL)
        run = self._tracker.start_trial(
            trial.number,
            trial_name(trial.number, label),
            proposal.params,
            role=role,
            tags={"label": label, "seed": str(trial.seed)},
            config=trial.config.model_dump(mode="json"),
        )
        self._runs[trial.number] = run, trial
        self._spending.began(trial.number, role)
        seen = self._history.curve(trial.number, self._primary.name)
        self._board.entries[trial.number] = Entry(
            trial.number, label, role, images_seen=max(seen, default=0)
        )
        self._mirror.keep()

    def reported(self, number: int, images_seen: int, metrics: Metrics) -> None:
        """A trial has reached a milestone."""
        value = metrics[self._primary.name]
        self._tracker.log(self._runs[number][0], metrics, step=images_seen)
        self._study.report(number, images_seen, value)
        if not self._history.add(number, images_seen, metrics):
            return
        entry = self._board.entries[number]
        entry.images_seen, entry.value = images_seen, value
        self._mirror.keep()

    def ended(
        self, number: int, outcome: Any, reason: str | None, infeasible: str | None = None
    ) -> None:
        """A trial is over; an interrupted one only for now.

        `infeasible` names what no trial with such parameters will ever have enough of: `memory`.
        """
        run, trial = self._runs.pop(number)
        self._spending.ended(number, outcome)
        self._tracker.end_trial(run, outcome, reason)
        if outcome != "interrupted":
            self._tell(number, outcome, reason, infeasible)
            self._mirror.keep()
            self._artist.submit(self._illustrate, run, trial)
        entry = self._board.entries[number]
        entry.state = outcome
        value = "" if entry.value is None else f"  {self._primary.name} {entry.value:.3g}"
        because = f"  {reason}" if reason else ""
        self._view.say(
            f"{_ENDED[outcome]} trial {number:>3} {outcome:<11} {entry.label}{value}{because}"
        )

    def close(self) -> None:
        """Wait for the last pictures."""
        self._artist.shutdown(wait=True)

    def _tell(self, number: int, outcome: Any, reason: str | None, infeasible: str | None) -> None:
        last = self._history.last(number)
        values = [last.get(objective.name) for objective in self._objectives]
        constraints = {infeasible: 1.0} if infeasible else self._constraints(number)
        self._study.tell(number, outcome, values, reason, constraints)

    def _constraints(self, number: int) -> dict[str, float]:
        """The guards as Optuna's constraints, which are stored for good: of the baseline's report
        at the same images_seen, which will not change. Without one, or where the baseline failed,
        a guard does not bind."""
        baseline = next((e for e in self._board.entries.values() if e.role == BASELINE), None)
        if baseline is None or baseline.state in _FAILED:
            return dict.fromkeys(self._guards, 0.0)
        excess = last_excess(self._history, number, baseline.number, self._guards)
        return {name: excess.get(name, 0.0) for name in self._guards}

    def _illustrate(self, run: Run, trial: Trial) -> None:
        try:
            self._mirror.bring_trial(trial.number)
            trial.config.illustrate(trial.folder)
            self._mirror.keep_files(trial.folder / "pictures")
            self._tracker.log_artifacts(run, trial.folder / "pictures", "pictures")
        except (OSError, ValueError) as error:  # a picture is no reason to lose a record
            self._view.say(f"trial {trial.number}: no pictures, {type(error).__name__}: {error}")
