"""JSON from strangers: read within bounds, or refused in one line that names the file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TypeVar

from stepsearch.config import Config, parse
from stepsearch.errors import UserError

T = TypeVar("T", bound=Config)


def read_mapping(path: Path, most: int) -> dict[str, Any]:
    """The object in a file of at most `most` bytes. Raises UserError if there is none."""
    try:
        with path.open("rb") as opened:
            text = opened.read(most + 1)
    except OSError as error:
        raise UserError(f"{path}: must be a readable file: {error.strerror or error}") from None
    if len(text) > most:
        raise UserError(f"{path}: must have at most {most} bytes, got more")
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:  # not JSON, not even text, or nested too deep
        raise UserError(f"{path}: must be JSON: {error}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: must be a mapping, got a {type(content).__name__}")
    return content


def parse_file(path: Path, kind: type[T], content: dict[str, Any]) -> T:
    """`content` of the file as `kind`. Raises UserError."""
    try:
        return parse(kind, content)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def read_json(path: Path, kind: type[T], most: int) -> T:
    """The content of a file of at most `most` bytes. Raises UserError if it has another."""
    return parse_file(path, kind, read_mapping(path, most))
