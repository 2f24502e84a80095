"""Records as lines of JSON: what a spool file holds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from stepsearch.tracking.records import Artifacts, End, Metrics, Record, Run, Start, Tags, Text

KINDS: dict[str, type[Record]] = {
    kind.__name__: kind for kind in (Start, Metrics, Tags, Artifacts, Text, End)
}


def record_line(number: int, record: Record, folder: Path) -> bytes:
    """The line of a record; paths below `folder` are kept relative: a search can be moved."""

    def plain(value: Run | Path) -> list[str | int | None] | str:
        if isinstance(value, Run):
            return [value.search_id, value.trial]
        return str(value.relative_to(folder) if value.is_relative_to(folder) else value)

    data = {"number": number, "kind": type(record).__name__, **vars(record)}
    return json.dumps(data, default=plain).encode() + b"\n"


def removed_line(numbers: list[int]) -> bytes:
    """The line that says which records of the lines before are delivered."""
    return json.dumps({"removed": numbers}).encode() + b"\n"


def replay(waiting: dict[int, Record], line: bytes, folder: Path) -> None:
    """Do to `waiting` what a line says. Raises ValueError if it is damaged."""
    try:
        data: dict[str, Any] = json.loads(line)
        if "removed" in data:
            for number in data["removed"]:
                waiting.pop(number, None)
            return
        number, kind = data.pop("number"), KINDS[data.pop("kind")]
        data["run"] = Run(*data["run"])
        if kind is Artifacts:
            data["path"] = folder / data["path"]
        waiting[number] = kind(**data)
    except (KeyError, TypeError) as error:
        raise ValueError(f"not a record: {line[:80]!r}") from error
