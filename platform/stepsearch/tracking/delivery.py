"""Writes records into MLflow."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from stepsearch.tracking.records import (
    STATUS,
    Artifacts,
    End,
    Metrics,
    Record,
    Run,
    Start,
    Tags,
    Text,
)
from stepsearch.tracking.tags import NOTE, OUTCOME, PARENT, REASON, identity
from stepsearch.tracking.views import Views


class Delivery:
    """Sends one batch at a time to MLflow; raises what MLflow raises.

    A record can be sent again, by this process or a later one: nothing is written twice.
    `connect` returns an MlflowClient and the views of the search's experiment; it is called until
    it has answered once.
    """

    def __init__(self, connect: Callable[[], tuple[Any, Views]]) -> None:
        self._connect = connect
        self.is_open = False
        self._run_ids: dict[Run, str] = {}
        self._last_step: dict[Run, dict[str, int]] = {}  # ended runs too: late ones come
        self._creations: Counter[Run] = Counter()

    def open(self) -> None:
        """Connect, unless that is done."""
        if not self.is_open:
            self._client, self.views = self._connect()
            self.is_open = True

    def send(self, batch: list[Record]) -> None:
        """Write a batch of `Backlog.take`: metrics of one run, or one other record."""
        self.open()
        match batch[0]:
            case Start() as start:
                self._start(start)
            case Metrics(run=run):
                self._metrics(run, (record for record in batch if isinstance(record, Metrics)))
            case Tags(run=run, tags=tags):
                self._set_tags(run, tags)
            case Artifacts() as artifacts:
                self._artifacts(artifacts)
            case Text(run=run, text=text, file=file):
                self._client.log_text(self._run_id(run), text, file)
            case End() as end:
                self._end(end)

    def _start(self, start: Start) -> None:
        from mlflow.entities import Param

        found = self._search(start.run)
        if found:
            self._go_on(start, found[0])
        else:
            self._create(start)
        params = [Param(key, value) for key, value in start.params.items()]
        self._client.log_batch(self._run_id(start.run), params=params)

    def _create(self, start: Start) -> None:
        self._creations[start.run] += 1
        run = self._client.create_run(
            self.views.experiment_id,
            start_time=start.time,
            run_name=start.name,
            tags={**start.tags, **self._place(start), **identity(start.run)},
        )
        self._run_ids[start.run] = run.info.run_id

    def _go_on(self, start: Start, found: Any) -> None:
        self._adopt(start.run, found)
        self._client.update_run(found.info.run_id, status="RUNNING")
        self._set_tags(start.run, {**start.tags, **self._place(start)})
        if REASON in found.data.tags:
            self._client.delete_tag(found.info.run_id, REASON)

    def _place(self, start: Start) -> dict[str, str]:
        """What makes a trial a child of its search, and a search's page explain itself."""
        if start.run.trial is None:
            return {NOTE: self.views.note(start.name)}
        return {PARENT: self._run_id(Run(start.run.search_id))}

    def _run_id(self, run: Run) -> str:
        """MLflow's id of a run, which an earlier process may have started."""
        if run not in self._run_ids:
            found = self._search(run)
            if not found:
                raise LookupError("its run is not there any more")
            self._adopt(run, found[0])
        return self._run_ids[run]

    def _adopt(self, run: Run, found: Any) -> None:
        run_id = found.info.run_id
        self._last_step[run] = {
            key: max(metric.step for metric in self._client.get_metric_history(run_id, key))
            for key in found.data.metrics
        }
        self._run_ids[run] = run_id

    def _metrics(self, run: Run, records: Iterable[Metrics]) -> None:
        """Log what is new: a trial that repeats steps after a resume does not log them twice."""
        from mlflow.entities import Metric

        run_id = self._run_id(run)
        last = dict(self._last_step.get(run, {}))
        values = []
        for record in records:
            for key, value in record.values.items():
                if record.step > last.get(key, -1):
                    values.append(Metric(key, value, record.time, record.step))
                    last[key] = record.step
        self._client.log_batch(run_id, metrics=values)
        self._last_step[run] = last

    def _set_tags(self, run: Run, tags: Mapping[str, str]) -> None:
        from mlflow.entities import RunTag

        entities = [RunTag(key, value) for key, value in tags.items()]
        self._client.log_batch(self._run_id(run), tags=entities)

    def _artifacts(self, record: Artifacts) -> None:
        run_id = self._run_id(record.run)
        if record.path.is_dir():
            self._client.log_artifacts(run_id, str(record.path), record.artifact_path)
        else:
            self._client.log_artifact(run_id, str(record.path), record.artifact_path)

    def _end(self, end: End) -> None:
        reason = {REASON: end.reason} if end.reason else {}
        self._set_tags(end.run, {OUTCOME: end.outcome, **reason})
        self._client.set_terminated(self._run_id(end.run), STATUS[end.outcome], end.time)
        if self._creations[end.run] > 1:
            self._delete_twins(end.run)
        self._creations.pop(end.run, None)

    def _delete_twins(self, run: Run) -> None:
        """Delete what a slow server made of a request that we had given up and repeated."""
        for found in self._search(run):
            if found.info.run_id != self._run_id(run):
                self._client.delete_run(found.info.run_id)

    def _search(self, run: Run) -> Any:
        """The runs with this identity, the oldest first; one, unless something went wrong."""
        return self._client.search_runs(
            [self.views.experiment_id],
            matches(identity(run)),
            order_by=["attributes.start_time ASC"],
        )


def matches(tags: Mapping[str, str]) -> str:
    """The search filter for runs that have all these tags."""
    return " AND ".join(f"tags.`{key}` = '{value}'" for key, value in tags.items())
