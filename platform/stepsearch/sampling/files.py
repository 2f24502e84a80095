"""What is exported appears whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from stepsearch.errors import UserError


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A hidden folder to fill, which takes the name of `folder` at the very end.

    Nothing is left of it after an error. Raises UserError if `folder` exists or cannot be written.
    """
    try:
        exists = folder.exists()
    except OSError as error:
        raise _unwritable(folder, error) from error
    if exists:
        raise UserError(f"folder must not exist yet, got {str(folder)!r}")
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    try:
        temporary.mkdir(parents=True)
        yield temporary
        os.replace(temporary, folder)
    except OSError as error:
        raise _unwritable(folder, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _unwritable(folder: Path, error: OSError) -> UserError:
    return UserError(f"folder must be writable, got {str(folder)!r}: {error.strerror or error}")
