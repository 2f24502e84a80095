"""Records as lines of JSON: what a spool file holds."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, TypeAdapter

from stepsearch.tracking.records import Artifacts, End, Metrics, Record, Run, Start, Tags, Text

KINDS: dict[str, type[Record]] = {
    kind.__name__: kind for kind in (Start, Metrics, Tags, Artifacts, Text, End)
}

_NUMBER = TypeAdapter[int](Annotated[int, Field(strict=True, gt=0)])
_NUMBERS = TypeAdapter[list[int]](list[int])


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
    data = _line(line)
    if "removed" in data:
        for number in _NUMBERS.validate_python(data["removed"]):
            waiting.pop(number, None)
        return
    number = _NUMBER.validate_python(data.pop("number", None))
    kind = str(data.pop("kind", None))
    if kind not in KINDS:
        raise ValueError(f"not a record: {line[:80]!r}")
    if isinstance(data.get("run"), list):
        data["run"] = dict(zip(("search_id", "trial"), data["run"], strict=True))
    record = _check(kind).validate_python(data)
    if isinstance(record, Artifacts):
        record = replace(record, path=folder / record.path)
    waiting[number] = record


def _line(line: bytes) -> dict[str, Any]:
    try:
        data = json.loads(line)
    except RecursionError:
        data = None
    if not isinstance(data, dict):
        raise ValueError(f"not a record: {line[:80]!r}")
    return data


@cache
def _check(kind: str) -> TypeAdapter[Record]:
    return TypeAdapter(KINDS[kind])
