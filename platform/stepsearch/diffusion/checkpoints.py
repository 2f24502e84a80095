"""Checkpoint files: written whole or not at all, checked and read without running what they hold.

A checkpoint is a zip archive, as `torch.save` writes it, with a CRC-32 of every tensor.
"""

from __future__ import annotations

import logging
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from stepsearch.errors import UserError

logger = logging.getLogger(__name__)


def write_checkpoint(state: dict[str, Any], path: Path, before: Path | None = None) -> None:
    """Write tensors and plain values; the checkpoint that `path` held is kept, at `before` or
    else beside it.

    Whenever a write is interrupted, `read_latest` finds what it found before or what was written.
    """
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        if path.is_file():
            os.replace(path, before or _before(path))
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def read_latest(path: Path) -> dict[str, Any] | None:
    """The checkpoint at `path`, or the one before it if that one is damaged; None without any."""
    return next((state for _, state in read_whole(path, _before(path))), None)


def read_whole(*files: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The checkpoints in these files, without those that are damaged."""
    for file in files:
        try:
            yield file, read_checkpoint(file)
        except UserError as error:
            if file.exists():
                logger.warning("%s", error)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """What `write_checkpoint` wrote, on the CPU; a flipped bit is found.

    Raises UserError if there is no such content.
    """
    if not path.is_file():
        raise UserError(f"checkpoint must be an existing file, got {str(path)!r}")
    try:
        with zipfile.ZipFile(path) as archive:
            if any(part.compress_type != zipfile.ZIP_STORED for part in archive.infolist()):
                raise ValueError("it is compressed, as no checkpoint is")  # may unpack without end
            if damaged := archive.testzip():
                raise ValueError(f"{damaged} is damaged")
        state = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(state, dict):
            raise ValueError(f"it holds a {type(state).__name__}")
    except Exception as error:  # of zipfile, pickle and torch, whatever the bytes make them raise
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"checkpoint {str(path)!r} is unreadable: {reason}") from error
    return state


def _before(path: Path) -> Path:
    return path.with_name(f"{path.name}.before")
