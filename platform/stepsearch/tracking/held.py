"""What MLflow holds for a search, as plain data, to be compared with what it should hold."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stepsearch.tracking.client import answering, connect
from stepsearch.tracking.config import TrackingConfig
from stepsearch.tracking.delivery import matches
from stepsearch.tracking.tags import OUTCOME, SEARCH, TRIAL


@dataclass(frozen=True)
class HeldTrial:
    """A trial's run in MLflow; of several ones the oldest, in which a resumed trial goes on."""

    status: str
    """RUNNING, FINISHED, KILLED or FAILED."""
    outcome: str | None
    """The tag; `running` before the trial's end."""
    steps: tuple[int, ...]
    """The steps of the metric, as often as they are there, in the order of their times."""
    runs: int
    """How many runs say that they are this trial: 1."""


def held_trials(
    config: TrackingConfig, storage: Path, *, search_id: str, metric: str
) -> dict[int, HeldTrial]:
    """The trials of a search that MLflow has a run of, by number; deleted runs do not count.

    One request a trial. Raises UserError with one line if MLflow does not answer.
    """
    uri = config.store_uri(storage)
    with answering(uri):
        client = connect(uri)
        found = defaultdict(list)
        for run in _runs(client, search_id):
            found[int(run.data.tags[TRIAL])].append(run)
        return {n: _held(client, runs, metric) for n, runs in sorted(found.items())}


def _held(client: Any, runs: list[Any], metric: str) -> HeldTrial:
    oldest = runs[0]
    history = client.get_metric_history(oldest.info.run_id, metric)
    return HeldTrial(
        status=oldest.info.status,
        outcome=oldest.data.tags.get(OUTCOME),
        steps=tuple(value.step for value in history),
        runs=len(runs),
    )


def _runs(client: Any, search_id: str) -> list[Any]:
    """The trials' runs, oldest first. The search's experiment may have been renamed."""
    experiments = [e.experiment_id for e in client.search_experiments()]
    filter_string, order = matches({SEARCH: search_id}), ["attributes.start_time ASC"]
    runs: list[Any] = []
    token = None
    while True:
        page = client.search_runs(experiments, filter_string, order_by=order, page_token=token)
        runs += [run for run in page if TRIAL in run.data.tags]
        token = page.token
        if not token:
            return runs
