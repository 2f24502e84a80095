"""Parquet files as the Hugging Face hub holds data sets of pictures."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from stepsearch.diffusion.datasets.formats.base import (
    Pictures,
    both_parts,
    numbered,
    part,
    visible,
)
from stepsearch.diffusion.datasets.formats.files import SUFFIXES, opened
from stepsearch.errors import UserError

_IMAGES = ("image", "img", "jpg", "png", "webp")
_LABELS = ("label", "labels", "fine_label", "cls")
"""How the columns are called that hold pictures and their classes."""
_GROUPS = 4
"""Row groups that are kept in memory."""


@dataclass(frozen=True)
class Parquet(Pictures):
    """Pictures as bytes in a column, read a row group at a time."""

    tables: Sequence[Any]
    column: str
    groups: Sequence[tuple[int, int]]
    """(table, row group) of each row group."""
    starts: npt.NDArray[np.int64]
    """The first index of each row group."""
    _loaded: dict[int, Any] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @classmethod
    def open(cls, path: Path) -> Parquet:
        """A file, or all files below a folder; one that says so in its name is held out.

        Raises UserError if they cannot be read, or have no pictures.
        """
        from pyarrow import ArrowInvalid
        from pyarrow.parquet import ParquetFile

        files = parquet_files(path)
        names = [f.relative_to(path).as_posix() if path.is_dir() else f.name for f in files]
        try:
            return cls._of(names, [ParquetFile(file) for file in files])
        except (ArrowInvalid, OSError) as error:
            raise UserError(
                f"dataset.path must hold Parquet files, got {path}: {str(error).splitlines()[0]}"
            ) from None

    @classmethod
    def _of(cls, files: list[str], tables: list[Any]) -> Parquet:
        column = _column(tables[0].schema_arrow.names)
        for name, table in zip(files, tables, strict=True):
            if column not in table.schema_arrow.names:
                raise UserError(f"dataset.path must hold {column} in all files, got {name}")
        groups = [(n, group) for n, t in enumerate(tables) for group in range(t.num_row_groups)]
        sizes = [tables[n].metadata.row_group(group).num_rows for n, group in groups]
        counts = [table.metadata.num_rows for table in tables]
        rows = [(f, row) for f, n in zip(files, counts, strict=True) for row in range(n)]
        return cls(
            [f"{file} row {row}" for file, row in rows],
            *_labels(tables),
            both_parts([part(file) for file, _ in rows]),
            tables,
            column,
            groups,
            np.cumsum([0, *sizes])[:-1],
        )

    def read(self, index: int) -> Image.Image:
        group = int(np.searchsorted(self.starts, index, side="right")) - 1
        cell = self._rows(group)[index - self.starts[group]].as_py()
        data = cell.get("bytes") if isinstance(cell, dict) else cell
        if not isinstance(data, bytes):
            raise ValueError("no picture in this row")
        return opened(BytesIO(data))

    def _rows(self, group: int) -> Any:
        """A row group's pictures; the last few groups are kept. One thread reads at a time."""
        with self._lock:
            if group not in self._loaded:
                while len(self._loaded) >= _GROUPS:
                    self._loaded.pop(next(iter(self._loaded)))
                number, row_group = self.groups[group]
                table = self.tables[number].read_row_group(row_group, columns=[self.column])
                self._loaded[group] = table.column(0)
            return self._loaded[group]


def parquet_files(path: Path) -> list[Path]:
    """The file at a path, or all files below a folder."""
    return visible(path, "*.parquet") if path.is_dir() else [path]


def has_pictures(path: Path) -> bool:
    """Whether there is a Parquet file, and not only one that describes the image files beside."""
    from pyarrow import ArrowInvalid
    from pyarrow.parquet import read_schema

    files = parquet_files(path) if path.is_dir() or path.suffix == ".parquet" else []
    if not files or path.is_file() or not any(f.suffix.lower() in SUFFIXES for f in visible(path)):
        return bool(files)
    try:
        return any(name in read_schema(files[0]).names for name in _IMAGES)
    except (ArrowInvalid, OSError):
        return False


def _column(names: Sequence[str]) -> str:
    found = [name for name in _IMAGES if name in names]
    if not found:
        raise UserError(
            f"dataset.path must hold a column of pictures ({', '.join(_IMAGES)}), "
            f"got {', '.join(names)}"
        )
    return found[0]


def _labels(tables: Sequence[Any]) -> tuple[list[int] | None, Sequence[str]]:
    """None where there is no such column, or a class is not told: -1 on the hub."""
    schema = tables[0].schema_arrow
    column = next((name for name in _LABELS if name in schema.names), None)
    if column is None:
        return None, ()
    values = [v for t in tables for v in t.read(columns=[column]).column(0).to_pylist()]
    if all(isinstance(value, str) for value in values):
        return numbered(values)
    if any(not isinstance(value, int) or value < 0 for value in values):
        return None, ()
    names = _names(schema.metadata or {}, column)
    if max(values, default=0) < len(names):
        return values, names
    found = {value: label for label, value in enumerate(sorted(set(values)))}
    return [found[value] for value in values], [str(value) for value in found]


def _names(metadata: dict[bytes, bytes], column: str) -> list[str]:
    """What the hub's own description of the columns calls the classes."""
    try:
        features = json.loads(metadata.get(b"huggingface", b"{}"))["info"]["features"]
        return [str(name) for name in features[column]["names"]]
    except (ValueError, KeyError, TypeError):
        return []
