"""Reconcile a search's records: what Optuna's study, the history and MLflow say of each trial.

The study knows which trials there are and how they ended, the history every metric of every
report, and MLflow is told both. A driver that was killed, or a disk that was full, can leave
MLflow behind: it is brought up to date from the other two. What cannot be mended is said.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from stepsearch.errors import UserError
from stepsearch.search.config import SearchConfig
from stepsearch.search.folder import SearchFolder
from stepsearch.search.history import History
from stepsearch.search.tracked import open_tracker
from stepsearch.study import Study, TrialRecord
from stepsearch.tracking import HeldTrial, Run, Tracker, count_waiting, held_trials, trial_name


@dataclass(frozen=True)
class Difference:
    """One thing in which the records of a trial differed."""

    trial: int
    says: str
    mended: bool = True

    def __str__(self) -> str:
        return f"trial {self.trial}: {self.says}"


def reconcile(config: SearchConfig) -> list[Difference]:
    """Mend the records of a search that nobody runs.

    Raises UserError if a driver has it, or if MLflow does not answer.
    """
    folder = SearchFolder.find(config.storage, config.name)
    with folder.locked(), Study.open(folder.study, config.name) as study:
        history, metric = History(folder.history), config.primary.name
        for number in study.running():
            for images_seen, metrics in history.reports(number).items():
                study.report(number, images_seen, metrics[metric])
        with open_tracker(config, folder, resumed=True) as tracker:
            return list(compare(config, folder, tuple(study.trials()), tracker))


def compare(
    config: SearchConfig,
    folder: SearchFolder,
    records: tuple[TrialRecord, ...],
    tracker: Tracker,
) -> Iterator[Difference]:
    """Compare each trial's records and queue for MLflow what it lacks.

    To be called while no trial of `records` is trained; others of the search may be. What waits
    for MLflow, of an earlier driver say, is delivered first. Raises UserError if MLflow does not
    answer, or does not take all that in time.
    """
    history = History(folder.history)
    delivered = tracker.flush()
    held = held_trials(
        config.tracking, config.home, search_id=folder.id, metric=config.primary.name
    )
    if not delivered:
        waiting = count_waiting(folder.spool)
        raise UserError(f"MLflow must have taken what waits for it first, got {waiting} records")
    for record in records:
        run = Run(tracker.search.search_id, record.number)
        known = held.get(record.number)
        if known is None:
            _start(tracker, config, record)
            yield Difference(record.number, "MLflow had no run of it")
        yield from _reports(tracker, run, record, history, known)
        yield from _ending(tracker, run, record, known)
        if known is not None and known.runs > 1:
            yield Difference(record.number, f"MLflow has {known.runs} runs of it", mended=False)


def _start(tracker: Tracker, config: SearchConfig, record: TrialRecord) -> None:
    label = record.attrs.get("label", str(record.number))
    tracker.start_trial(
        record.number,
        trial_name(record.number, label),
        record.params,
        role=record.attrs.get("role", "proposal"),
        tags={"label": label},
        config=config.trainer_for(record.proposed).model_dump(mode="json"),
    )


def _reports(
    tracker: Tracker, run: Run, record: TrialRecord, history: History, known: HeldTrial | None
) -> Iterator[Difference]:
    """The milestones: all of the history's in MLflow, each once; those of the study as well."""
    reports = history.reports(record.number)
    steps = known.steps if known else ()
    last = max(steps, default=-1)
    if late := [at for at in reports if at > last]:
        for at in late:
            tracker.log(run, reports[at], step=at)
        if known is not None:
            yield Difference(record.number, f"MLflow lacked the reports at {_list(late)}")
    if lost := [at for at in reports if at < last and at not in steps]:
        yield Difference(record.number, f"MLflow lacks the reports at {_list(lost)}", mended=False)
    if twice := sorted({at for at in steps if steps.count(at) > 1}):
        says = f"MLflow has the reports at {_list(twice)} more than once"
        yield Difference(record.number, says, mended=False)
    if record.outcome is not None and set(record.intermediate) - set(reports):
        extra = sorted(set(record.intermediate) - set(reports))
        says = f"the history lacks the reports at {_list(extra)}, which Optuna has"
        yield Difference(record.number, says, mended=False)


def _ending(
    tracker: Tracker, run: Run, record: TrialRecord, known: HeldTrial | None
) -> Iterator[Difference]:
    """How it ended; a trial without an end was interrupted, and `resume` goes on with it."""
    outcome = record.outcome or "interrupted"
    if known is not None and known.outcome == outcome:
        return
    tracker.end_trial(run, outcome, record.reason)
    if known is not None:
        was = known.outcome or known.status.lower()
        yield Difference(record.number, f"MLflow took it for {was}, it is {outcome}")


def _list(numbers: list[int]) -> str:
    return ", ".join(f"{number:,}" for number in numbers) + " images"
