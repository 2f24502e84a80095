"""The history of a search: every report of every trial, one line of JSON each."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel

from stepsearch.errors import UserError

Metrics = dict[str, float]


class _Entry(BaseModel):
    """A line."""

    trial: int
    images_seen: int
    metrics: Metrics


class History:
    """The metrics of every trial at every milestone; each is recorded once.

    Without a path they are in memory only. One process writes; others may read meanwhile.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._size = 0  # of the file's whole lines, in bytes
        self._metrics: dict[int, dict[int, Metrics]] = defaultdict(dict)
        if path is not None and path.exists():
            self._read(path)

    def add(self, number: int, images_seen: int, metrics: Mapping[str, float]) -> bool:
        """Record the metrics of a milestone; False when they are there already."""
        if images_seen in self._metrics[number]:
            return False
        if self._path is not None:
            line = {"trial": number, "images_seen": images_seen, "metrics": dict(metrics)}
            self._append(self._path, json.dumps(line).encode() + b"\n")
        self._metrics[number][images_seen] = dict(metrics)
        return True

    def __len__(self) -> int:
        """Reports in all."""
        return sum(map(len, self._metrics.values()))

    def curve(self, number: int, metric: str) -> dict[int, float]:
        """images_seen -> value, ascending."""
        reports = self._metrics.get(number, {})
        return {at: m[metric] for at, m in sorted(reports.items()) if metric in m}

    def reports(self, number: int) -> dict[int, Metrics]:
        """images_seen -> all metrics, ascending."""
        return dict(sorted(self._metrics.get(number, {}).items()))

    def last(self, number: int) -> Metrics:
        """The metrics of the trial's last milestone; empty before its first."""
        reports = self._metrics.get(number)
        return reports[max(reports)] if reports else {}

    def total(self, metric: str) -> float:
        """The sum of a metric over all reports of all trials, e.g. of CPU-seconds."""
        return sum(m.get(metric, 0.0) for trial in self._metrics.values() for m in trial.values())

    def _append(self, path: Path, line: bytes) -> None:
        with path.open("ab") as file:
            file.truncate(self._size)  # a killed driver or a full disk may have left half a line
            file.write(line)
        self._size += len(line)

    def _read(self, path: Path) -> None:
        data = path.read_bytes()
        self._size = data.rfind(b"\n") + 1
        for number, line in enumerate(data[: self._size].splitlines(), start=1):
            try:
                entry = _Entry.model_validate_json(line)
            except ValueError:
                problem = f"{path} must hold one report a line, not so line {number}"
                raise UserError(problem) from None
            self._metrics[entry.trial][entry.images_seen] = entry.metrics
