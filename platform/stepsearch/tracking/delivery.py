"""Writes records into MLflow."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
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
from stepsearch.tracking.tags import OUTCOME, REASON, SEARCH, TRIAL, identity


class Delivery:
    """Sends one batch at a time to MLflow; raises what MLflow raises.

    A record can be sent again after an error: nothing is written twice.
    """

    def __init__(self, client: Any, experiment_id: str) -> None:
        self._client = client
        self._experiment_id = experiment_id
        self.run_ids: dict[Run, str] = {}
        self._last_step: dict[Run, dict[str, int]] = {}  # of the runs that are not closed

    def send(self, batch: list[Record]) -> None:
        """Write a batch of `Backlog.take`: metrics of one run, or one other record."""
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
                self._client.log_text(self.run_ids[run], text, file)
            case End() as end:
                self._end(end)

    def unfinished(self, search_id: str) -> list[Run]:
        """The trials that MLflow still shows as running."""
        found = self._search(f"{_matches({SEARCH: search_id})} AND attributes.status = 'RUNNING'")
        numbers = [int(run.data.tags[TRIAL]) for run in found if TRIAL in run.data.tags]
        return [Run(search_id, number) for number in sorted(numbers)]

    def _start(self, start: Start) -> None:
        from mlflow.entities import Param

        found = self._search(_matches(identity(start.run)), max_results=1)
        if found:
            self._go_on(start, found[0])
        else:
            self._create(start)
        params = [Param(key, value) for key, value in start.params.items()]
        self._client.log_batch(self.run_ids[start.run], params=params)

    def _create(self, start: Start) -> None:
        run = self._client.create_run(
            self._experiment_id,
            start_time=start.time,
            run_name=start.name,
            tags={**start.tags, **identity(start.run)},
        )
        self.run_ids[start.run] = run.info.run_id

    def _go_on(self, start: Start, found: Any) -> None:
        run_id = self.run_ids[start.run] = found.info.run_id
        self._client.update_run(run_id, status="RUNNING")
        self._set_tags(start.run, start.tags)
        if REASON in found.data.tags:
            self._client.delete_tag(run_id, REASON)
        self._last_step[start.run] = {
            key: max(metric.step for metric in self._client.get_metric_history(run_id, key))
            for key in found.data.metrics
        }

    def _metrics(self, run: Run, records: Iterable[Metrics]) -> None:
        """Log what is new: a trial that repeats steps after a resume does not log them twice."""
        from mlflow.entities import Metric

        last = dict(self._last_step.get(run, {}))
        values = []
        for record in records:
            for key, value in record.values.items():
                if record.step > last.get(key, -1):
                    values.append(Metric(key, value, record.time, record.step))
                    last[key] = record.step
        self._client.log_batch(self.run_ids[run], metrics=values)
        self._last_step[run] = last

    def _set_tags(self, run: Run, tags: Mapping[str, str]) -> None:
        from mlflow.entities import RunTag

        entities = [RunTag(key, value) for key, value in tags.items()]
        self._client.log_batch(self.run_ids[run], tags=entities)

    def _artifacts(self, record: Artifacts) -> None:
        run_id = self.run_ids[record.run]
        if record.path.is_dir():
            self._client.log_artifacts(run_id, str(record.path), record.artifact_path)
        else:
            self._client.log_artifact(run_id, str(record.path), record.artifact_path)

    def _end(self, end: End) -> None:
        reason = {REASON: end.reason} if end.reason else {}
        self._set_tags(end.run, {OUTCOME: end.outcome, **reason})
        self._client.set_terminated(self.run_ids[end.run], STATUS[end.outcome], end.time)
        self._last_step.pop(end.run, None)

    def _search(self, filter_string: str, max_results: int = 1000) -> Any:
        return self._client.search_runs(
            [self._experiment_id],
            filter_string,
            max_results=max_results,
            order_by=["attributes.start_time ASC"],
        )


def _matches(tags: Mapping[str, str]) -> str:
    return " AND ".join(f"tags.`{key}` = '{value}'" for key, value in tags.items())
