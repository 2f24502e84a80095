"""The record of one search in MLflow: a parent run, and a child run for each trial."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import yaml

from stepsearch.errors import UserError
from stepsearch.tracking import tags as names
from stepsearch.tracking.backlog import Unsent
from stepsearch.tracking.client import answering, connect, is_away
from stepsearch.tracking.config import TrackingConfig
from stepsearch.tracking.delivery import Delivery
from stepsearch.tracking.experiment import open_experiment
from stepsearch.tracking.records import (
    Artifacts,
    End,
    Metrics,
    Outcome,
    Role,
    Run,
    Start,
    Tags,
    Text,
)
from stepsearch.tracking.views import Views
from stepsearch.tracking.writer import Writer


class Tracker:
    """Used by the one driver process of a search.

    `open` and `start_search` of a new search wait for MLflow. Everything else is kept in a spool
    on the disk and delivered by a thread, so that a slow or absent server never holds up the
    search, and what it has not taken when the process ends or dies is delivered by the next one.
    Runs are found again by their tags: a resumed search goes on in the same runs and logs no step
    of a metric twice.
    """

    def __init__(
        self, uri: str, search: Run, delivery: Delivery, spool: Path, resumed: bool
    ) -> None:
        self.uri = uri
        self.search = search
        self._delivery, self._resumed = delivery, resumed
        self._writer = Writer(delivery.send, spool)
        self._provenance = names.provenance()
        self._running: set[Run] = set()

    @classmethod
    def open(
        cls,
        config: TrackingConfig,
        storage: Path,
        *,
        spool: Path,
        search_id: str,
        family: str,
        metric: str,
        direction: Literal["minimize", "maximize"] = "minimize",
        params: Sequence[str] = (),
        resumed: bool = False,
    ) -> Tracker:
        """Connect to MLflow and open the experiment of the family (the search space's kind).

        `spool` is the file for the records that wait, `search_id` any name that only this search
        has and that it keeps on resume. `metric` is the quality by which the page orders the
        trials, `params` are the parameters that get a column there. Raises UserError with one
        line if MLflow does not answer, but of a `resumed` search only if it refuses the user:
        then the URI has answered before, and the records can wait.
        """
        if not re.fullmatch(r"[\w.-]+", search_id, re.ASCII):
            raise UserError(f"search_id must be letters, digits, '.', '_', '-', got {search_id!r}")
        uri = config.store_uri(storage)
        name = config.experiment or f"stepsearch/{family}"

        def connected() -> tuple[Any, Views]:
            client = connect(uri)
            experiment_id = open_experiment(client, name, config.artifact_root(storage))
            views = Views(experiment_id, search_id, metric, direction, params)
            for key, value in views.experiment_tags().items():
                client.set_experiment_tag(experiment_id, key, value)
            return client, views

        delivery = Delivery(connected)
        with answering(uri):
            try:
                delivery.open()
            except Exception as error:
                if not (resumed and is_away(error)):
                    raise
        return cls(uri, Run(search_id), delivery, spool.absolute(), resumed)

    @property
    def page(self) -> str | None:
        """Link to the table of the trials, once MLflow has answered."""
        return self._delivery.views.table if self._delivery.is_open else None

    def start_search(
        self,
        name: str,
        params: Mapping[str, object],
        tags: Mapping[str, str] | None = None,
        config: Mapping[str, Any] | None = None,
    ) -> None:
        """Create the parent run, and wait for that; in a resumed search, go on in it.

        Raises UserError with one line if MLflow does not answer a new search.
        """
        start = self._start(self.search, name, params, tags or {})
        if self._resumed:
            self._writer.put(start)
        else:
            with answering(self.uri):
                self._delivery.send([start])
        self._put_config(self.search, config)

    def start_trial(
        self,
        number: int,
        name: str,
        params: Mapping[str, object],
        *,
        role: Role = "proposal",
        tags: Mapping[str, str] | None = None,
        config: Mapping[str, Any] | None = None,
    ) -> Run:
        """Create the trial's run or go on in it.

        `params` are the active parameters, flat and short; `config` is the whole configuration,
        kept as config.yaml.
        """
        run = Run(self.search.search_id, number)
        own: dict[str, str] = {names.ROLE: role}
        if role == "baseline":
            own[names.COLOUR] = "#000000"
        self._writer.put(self._start(run, name, params, {**own, **(tags or {})}))
        self._put_config(run, config)
        return run

    def log(self, run: Run, metrics: Mapping[str, float], step: int) -> None:
        """Log values at `step` (images seen).

        NaN and infinity are left out, since MLflow stores them as 0 and 1.8e308. A key's step
        that is not larger than its last one was logged before a resume and is left out as well.
        """
        values = {key: float(value) for key, value in metrics.items() if math.isfinite(value)}
        if values:
            self._writer.put(Metrics(run, _now(), step, values))

    def log_artifacts(self, run: Run, path: Path, artifact_path: str | None = None) -> None:
        """Copy a file, or everything below a folder; it must stay until it is delivered.

        That may be long after the search: it belongs into the search's folder.
        """
        self._writer.put(Artifacts(run, path.absolute(), artifact_path))

    def log_text(self, run: Run, text: str, file: str) -> None:
        """Keep a small text as the artifact `file`."""
        self._writer.put(Text(run, text, file))

    def set_tags(self, run: Run, tags: Mapping[str, str]) -> None:
        """Set or replace tags."""
        self._writer.put(Tags(run, dict(tags)))

    def end_trial(self, run: Run, outcome: Outcome, reason: str | None = None) -> None:
        """Close the trial's run with the status of its outcome."""
        self._running.discard(run)
        self._writer.put(End(run, _now(), outcome, reason))

    def end_search(self, outcome: Outcome = "finished", reason: str | None = None) -> None:
        """Close the parent run; trials that still run were interrupted."""
        for run in sorted(self._running - {self.search}, key=lambda run: run.trial or 0):
            self.end_trial(run, "interrupted")
        self.end_trial(self.search, outcome, reason)

    def flush(self, timeout: float = 30.0) -> bool:
        """Wait until everything is delivered; False if that takes longer than `timeout` s."""
        return self._writer.flush(timeout)

    def close(self, timeout: float = 30.0) -> Unsent:
        """Deliver what waits, until MLflow takes none for `timeout` s; what it does not have.

        Waits for less when MLflow is known to be away.
        """
        return self._writer.close(timeout)

    def __enter__(self) -> Tracker:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _start(
        self, run: Run, name: str, params: Mapping[str, object], tags: Mapping[str, str]
    ) -> Start:
        self._running.add(run)
        texts = {key: names.short(value, digits=6) for key, value in params.items()}
        return Start(
            run, _now(), name, texts, {**self._provenance, **tags, names.OUTCOME: "running"}
        )

    def _put_config(self, run: Run, config: Mapping[str, Any] | None) -> None:
        if config is not None:
            text = yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True)
            self._writer.put(Text(run, text, "config.yaml"))


def _now() -> int:
    return time.time_ns() // 1_000_000
