"""The files that commands are asked to write: checked before the work that fills them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from stepsearch.errors import UserError


def check_file(option: str, path: Path | None) -> None:
    """Raise UserError unless a file could be written there."""
    if path is not None and (path.is_dir() or not path.parent.is_dir()):
        reason = "Is a directory" if path.is_dir() else "No such file or directory"
        raise UserError(
            f"{option} must be a file that can be written, got {str(path)!r}: {reason}"
        )


def check_picture(option: str, path: Path | None, endings: Iterable[str]) -> None:
    """Raise UserError unless a picture of one of these types could be written there."""
    check_file(option, path)
    if path is not None and path.suffix.removeprefix(".") not in set(endings):
        raise UserError(f"{option} must end in one of .{', .'.join(endings)}, got {str(path)!r}")
