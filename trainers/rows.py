"""Files to which a trial adds a line of JSON now and then, and which outlive its process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from stepsearch.strategies import FloatArray, Strategy

_BINS = 100


def append_row(path: Path, row: dict[str, Any]) -> None:
    """Add a line; half a line that a killed worker may have left is cut off."""
    with path.open("a+b") as file:
        file.seek(0)
        file.truncate(file.read().rfind(b"\n") + 1)
        file.write(json.dumps(row).encode() + b"\n")


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a file, none without it; a resumed trial may have written one twice, and a
    killed worker half a line."""
    if not path.exists():
        return []
    *lines, _ = path.read_text().split("\n")
    rows = map(json.loads, lines)
    latest = {row["images_seen"]: row for row in rows}
    return [latest[images_seen] for images_seen in sorted(latest)]


def strategy_row(strategy: Strategy, images_seen: int) -> dict[str, Any]:
    """T p and w of this moment, means over at most 100 equal parts of the timesteps."""
    p = strategy.p
    density, weight = _coarse(len(p) * p), _coarse(strategy.w)
    return {"images_seen": images_seen, "density": density, "weight": weight}


def _coarse(values: FloatArray) -> list[float]:
    parts = np.array_split(values, min(_BINS, len(values)))
    return [float(f"{part.mean():.5g}") for part in parts]


def last_strategy(rows: list[dict[str, Any]], T: int) -> tuple[FloatArray, FloatArray]:
    """p and w of the last row, a step function over the timesteps."""
    row = rows[-1]
    sizes = [len(part) for part in np.array_split(np.arange(T), len(row["density"]))]
    density = np.repeat(row["density"], sizes)
    return density / density.sum(), np.repeat(row["weight"], sizes)
