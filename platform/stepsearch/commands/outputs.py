"""The files that commands are asked to write: checked before the work that fills them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from errno import EACCES, EISDIR, ENOENT
from pathlib import Path

from stepsearch.errors import UserError


def check_file(option: str, path: Path | None) -> None:
    """Raise UserError unless a file could be written there."""
    if path is None:
        return
    with written(option, path):
        code = _obstacle(path)
        if code:
            raise OSError(code, os.strerror(code))


def check_picture(option: str, path: Path | None, endings: Iterable[str]) -> None:
    """Raise UserError unless a picture of one of these types could be written there."""
    check_file(option, path)
    if path is not None and path.suffix.removeprefix(".") not in set(endings):
        raise UserError(f"{option} must end in one of .{', .'.join(endings)}, got {str(path)!r}")


@contextmanager
def written(option: str, path: Path) -> Iterator[None]:
    """Say in one line why the file that the block writes cannot be. Raises UserError."""
    try:
        yield
    except (OSError, ValueError) as error:  # ValueError: a format that is not known
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(
            f"{option} must be a file that can be written, got {str(path)!r}: {reason}"
        ) from None


def _obstacle(path: Path) -> int:
    """What the system would say; 0 for nothing. Raises OSError."""
    if path.is_dir():
        return EISDIR
    if not path.parent.is_dir():
        return ENOENT
    return 0 if os.access(path if path.exists() else path.parent, os.W_OK) else EACCES
