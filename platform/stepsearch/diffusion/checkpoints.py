"""Checkpoint files: written whole or not at all, read without running anything inside them."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import torch

from stepsearch.errors import UserError


def write_checkpoint(state: dict[str, Any], path: Path) -> None:
    """Write tensors and plain values; an interrupted write leaves an older file as it was."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    with temporary.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """What `write_checkpoint` wrote, on the CPU. Raises UserError if there is no such content."""
    if not path.is_file():
        raise UserError(f"checkpoint must be an existing file, got {str(path)!r}")
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"checkpoint {str(path)!r} is unreadable: {reason}") from error
    return state
