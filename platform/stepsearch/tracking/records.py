"""What is waiting to be written to MLflow: plain values, each of them safe to send twice."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

Outcome = Literal["finished", "pruned", "diverged", "error", "interrupted"]
Role = Literal["baseline", "paper", "carried", "proposal", "repeat"]

STATUS: dict[Outcome, str] = {
    "finished": "FINISHED",
    "pruned": "KILLED",
    "diverged": "FAILED",
    "error": "FAILED",
    "interrupted": "KILLED",
}


@dataclass(frozen=True)
class Run:
    """One run of a search: a trial by its number, or the search itself (`trial` is None)."""

    search_id: str
    trial: int | None = None


@dataclass(frozen=True)
class Start:
    """Create the run, or go on in the one that already has the run's identity."""

    run: Run
    time: int
    name: str
    params: Mapping[str, str] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Metrics:
    """Values at one step. MLflow keeps (key, step, time, value) once, however often it arrives."""

    run: Run
    time: int
    step: int
    values: Mapping[str, float]


@dataclass(frozen=True)
class Tags:
    """Tags to set, replacing older values."""

    run: Run
    tags: Mapping[str, str]


@dataclass(frozen=True)
class Artifacts:
    """A file, or all files below a folder; they must stay until they are delivered."""

    run: Run
    path: Path
    artifact_path: str | None = None


@dataclass(frozen=True)
class Text:
    """A small text file."""

    run: Run
    text: str
    file: str


@dataclass(frozen=True)
class End:
    """The run is over."""

    run: Run
    time: int
    outcome: Outcome
    reason: str | None = None


Record = Start | Metrics | Tags | Artifacts | Text | End


def is_file(record: Record) -> bool:
    """Whether the record goes to the artifact store instead of the tracking store."""
    return isinstance(record, Artifacts | Text)
