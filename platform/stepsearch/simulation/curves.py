"""Recorded learning curves: what the trials of a finished search reported, as one small table."""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self, get_args

import numpy as np
import numpy.typing as npt
import pandas as pd

from stepsearch.config import parse
from stepsearch.errors import UserError
from stepsearch.search.board import describe
from stepsearch.search.config import SearchConfig
from stepsearch.search.folder import SearchFolder
from stepsearch.search.history import History, Metrics
from stepsearch.search.leaderboard import BASELINE, PROPOSAL, REPEAT
from stepsearch.study import Direction, Objective, StoredStudy, TrialRecord

FloatArray = npt.NDArray[np.float64]

SECONDS = ("train_cpu_s", "evaluation_cpu_s")
_WHO = ["trial", "label", "role", "repeats", "seed"]
_DIGITS = "%.5g"
_MAX_BYTES = 64 * 1024**2
_MAX_COLUMNS = 1000
"""A column takes pandas far more memory than its comma takes in the file."""


@dataclass(frozen=True)
class Recording:
    """One trial that ran to its budget, with every report."""

    number: int
    label: str
    role: str
    params: dict[str, Any]
    reports: dict[int, Metrics]
    """images_seen -> metrics."""
    repeats: int | None = None
    seed: int = 0

    @property
    def final(self) -> Metrics:
        """The metrics at the end."""
        return self.reports[max(self.reports)]


@dataclass(frozen=True)
class Curves:
    """The recordings of one search; all of them report at the same milestones."""

    objectives: tuple[Objective, ...]
    """What the search was after; the first one is primary."""
    recordings: tuple[Recording, ...]

    def __post_init__(self) -> None:
        milestones = [tuple(r.reports) for r in self.recordings]
        if not milestones or len(set(milestones)) > 1:
            raise UserError("curves must have the same milestones in each trial")
        if sum(r.role == BASELINE for r in self.recordings) != 1:
            raise UserError("curves must hold one baseline")

    @property
    def primary(self) -> Objective:
        return self.objectives[0]

    @property
    def milestones(self) -> tuple[int, ...]:
        """`images_seen` at each report, ascending."""
        return tuple(self.recordings[0].reports)

    @property
    def budget(self) -> int:
        """Images that each recorded trial has seen in the end."""
        return self.milestones[-1]

    @property
    def shares(self) -> tuple[float, ...]:
        """The milestones as shares of the budget; the last one is 1."""
        return tuple(images / self.budget for images in self.milestones)

    @property
    def params(self) -> tuple[str, ...]:
        return tuple(self.recordings[0].params)

    @property
    def metrics(self) -> tuple[str, ...]:
        """What each report holds, the CPU-seconds aside: the objectives, then the others."""
        return tuple(name for name in self.recordings[0].final if name not in SECONDS)

    @cached_property
    def originals(self) -> tuple[Recording, ...]:
        """One recording a configuration: without the repeats on further seeds."""
        return tuple(r for r in self.recordings if r.role != REPEAT)

    @property
    def baseline(self) -> Recording:
        return next(r for r in self.recordings if r.role == BASELINE)

    def repeat(self, number: int, seed: int) -> Recording | None:
        """Trial `number` on another seed, if that was recorded."""
        found = (r for r in self.recordings if (r.repeats, r.seed) == (number, seed))
        return next(found, None)

    def table(self, metric: str) -> FloatArray:
        """A metric of all configurations: [originals, milestones]."""
        rows = [[m[metric] for m in r.reports.values()] for r in self.originals]
        return np.array(rows, dtype=np.float64)

    @classmethod
    def of_search(cls, folder: SearchFolder) -> Self:
        """What a search has recorded so far; trials that have not finished are left out.

        Raises UserError if none has, or if there is no study.
        """
        config = parse(SearchConfig, folder.read_config())
        history = History(folder.history)
        with StoredStudy.look(folder.study, config.name) as study:
            records = [r for r in study.trials() if r.outcome == "finished"]
        wanted = [o.name for o in config.objectives] + list(config.guards or {})
        recordings = [_recording(r, history, [*wanted, *SECONDS]) for r in records]
        if not recordings:
            raise UserError(f"search {config.name!r} must have a finished trial, it has none")
        return cls(config.objectives, tuple(recordings))

    @classmethod
    def read(cls, path: Path) -> Self:
        """Curves that `write` has written. Raises UserError for any other file."""
        try:
            frame = pd.read_csv(io.BytesIO(_content(path)))
        except OSError as error:
            raise UserError(
                f"curves must be a file that can be read, got {str(path)!r}: "
                f"{error.strerror or error}"
            ) from None
        except (ValueError, EOFError, zlib.error) as error:
            raise UserError(f"curves must be CSV, got {str(path)!r}: {_line(error)}") from None
        try:
            return cls(_objectives(frame), tuple(_recordings(frame)))
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise UserError(f"{path.name}: {_line(error)}") from None

    def write(self, path: Path) -> None:
        """A line a report, five digits a number; `path` ends in .csv or .csv.gz.

        The same curves give the same bytes.
        """
        squeeze: Any = {"method": "gzip", "mtime": 0} if path.suffix == ".gz" else None
        self.frame().to_csv(path, index=False, float_format=_DIGITS, compression=squeeze)

    def frame(self) -> pd.DataFrame:
        """The table that `write` writes: `param.`, `minimize.` or `maximize.`, and `metric.`."""
        rows = [
            {
                **dict(zip(_WHO, (r.number, r.label, r.role, r.repeats, r.seed), strict=True)),
                **{f"param.{name}": value for name, value in r.params.items()},
                "images_seen": images_seen,
                **{self._column(name): value for name, value in metrics.items()},
            }
            for r in self.recordings
            for images_seen, metrics in r.reports.items()
        ]
        return pd.DataFrame(rows).astype({"repeats": "Int64"})

    def _column(self, metric: str) -> str:
        directions = {o.name: o.direction for o in self.objectives}
        return f"{directions.get(metric, 'metric')}.{metric}"


def _content(path: Path) -> bytes:
    """The bytes of the table, if they are as many as a table of curves may have."""
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        content: bytes = file.read(_MAX_BYTES + 1)
    if len(content) > _MAX_BYTES:
        raise ValueError(f"it must have at most {_MAX_BYTES} bytes, unpacked")
    if max((line.count(b",") for line in content.splitlines()), default=0) >= _MAX_COLUMNS:
        raise ValueError(f"it must have at most {_MAX_COLUMNS} columns")
    return content


def _recording(record: TrialRecord, history: History, metrics: Sequence[str]) -> Recording:
    curves = {name: history.curve(record.number, name) for name in metrics}
    milestones = curves[metrics[0]]
    return Recording(
        number=record.number,
        label=record.attrs.get("label") or describe(record.params),
        role=record.attrs.get("role", PROPOSAL),
        params=record.params,
        reports={at: {name: curves[name][at] for name in metrics} for at in milestones},
        repeats=record.attrs.get("repeats"),
        seed=record.attrs.get("seed", 0),
    )


def _objectives(frame: pd.DataFrame) -> tuple[Objective, ...]:
    directions: tuple[Direction, ...] = get_args(Direction)
    found = tuple(
        Objective(column.partition(".")[2], direction)
        for column in frame.columns
        for direction in directions
        if column.startswith(f"{direction}.")
    )
    if not found:
        raise UserError("curves must have a column minimize.NAME or maximize.NAME, got none")
    return found


def _recordings(frame: pd.DataFrame) -> Iterator[Recording]:
    """The recordings of a table; raises ValueError where it has gaps."""
    needed = {*_WHO, "images_seen", *(f"metric.{name}" for name in SECONDS)}
    if missing := needed - set(frame.columns):
        raise ValueError(f"curves must have the columns {', '.join(sorted(missing))}")
    filled = frame.drop(columns="repeats")
    if filled.isna().to_numpy().any():
        raise ValueError("curves must have a value in every line, got an empty one")
    names = {c: c.partition(".")[2] for c in frame.columns if "." in c}
    params = [c for c in names if c.startswith("param.")]
    metrics = [c for c in names if c not in params]
    for _, group in frame.sort_values("images_seen").groupby("trial"):
        rows = group.to_dict("records")
        first = rows[0]
        yield Recording(
            number=int(first["trial"]),
            label=str(first["label"]),
            role=str(first["role"]),
            params={names[c]: first[c] for c in params},
            reports={
                int(row["images_seen"]): {names[c]: float(row[c]) for c in metrics} for row in rows
            },
            repeats=None if pd.isna(first["repeats"]) else int(first["repeats"]),
            seed=int(first["seed"]),
        )


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
