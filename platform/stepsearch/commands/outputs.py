"""The files that commands are asked to write: checked before the work that fills them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from errno import EACCES, EISDIR
from pathlib import Path
from tempfile import TemporaryFile

from stepsearch.errors import UserError


def check_file(option: str, path: Path | None) -> None:
    """Raise UserError unless a file could be written there."""
    if path is None:
        return
    with written(option, path):
        if not path.exists():
            TemporaryFile(dir=path.parent).close()
        elif path.is_dir():
            raise IsADirectoryError(EISDIR, os.strerror(EISDIR))
        elif not os.access(path, os.W_OK):
            raise PermissionError(EACCES, os.strerror(EACCES))


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
