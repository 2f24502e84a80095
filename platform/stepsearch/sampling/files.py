"""What is exported appears whole or not at all, and what is read of it is bounded."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from stepsearch.config import Config, parse
from stepsearch.errors import UserError

T = TypeVar("T", bound=Config)


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A hidden folder to fill, which takes the name of `folder` at the very end.

    Nothing is left of it after an error. Raises UserError if `folder` exists or cannot be written.
    """
    if folder.exists():
        raise UserError(f"folder must not exist yet, got {str(folder)!r}")
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    try:
        temporary.mkdir(parents=True)
        yield temporary
        os.replace(temporary, folder)
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"folder must be writable, got {str(folder)!r}: {reason}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def read_json(path: Path, kind: type[T], most: int) -> T:
    """The content of a file of at most `most` bytes. Raises UserError if it has another."""
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
    try:
        return parse(kind, content)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
