"""A checkpoint in parts, one a stage, and how they become that of a whole denoiser again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stepsearch.diffusion.checkpoints import read_checkpoint
from stepsearch.errors import UserError

_DECODERS = "decoders."


def shard(path: Path, stage: int) -> Path:
    """Where the part of a stage lies: checkpoint.pt, checkpoint.stage1.pt ..."""
    return path.with_suffix(f".stage{stage}{path.suffix}") if stage else path


def earlier(part: Path) -> Path:
    """Where the part before the last one lies: a checkpoint by its name, so that it is in a bucket
    as well, where what `write_checkpoint` keeps beside a whole one is not needed."""
    return part.with_suffix(f".earlier{part.suffix}")


def read_merged(path: Path) -> dict[str, Any]:
    """The state of a training with all stages, from a checkpoint of one or of several parts.

    Raises UserError if a part is unreadable, or if they are not of the same moment.
    """
    parts, stage = [read_checkpoint(path)], 1
    while shard(path, stage).is_file():
        parts.append(read_checkpoint(shard(path, stage)))
        stage += 1
    if len(parts) == 1:
        return parts[0]
    moments = [part.get("images_seen") for part in parts]
    if len(set(moments)) > 1:
        raise UserError(f"the parts of {path} must be of the same images_seen, got {moments}")
    return _merged(parts)


def _merged(parts: list[dict[str, Any]]) -> dict[str, Any]:
    """The encoder of the first part and everyone's decoder."""
    first = parts[0]
    merged = {name: _union([part[name] for part in parts]) for name in _MODULES}
    others = {
        k: _union([part["averages"][k] for part in parts]) for k in first.get("averages", ())
    }
    shared = sum(
        value.numel() for k, value in first["denoiser"].items() if not k.startswith(_DECODERS)
    )
    states = [part["optimizer"]["state"][0] for part in parts]
    moments = {name: _joined([state[name] for state in states], shared) for name in _MOMENTS}
    optimizer = {**first["optimizer"], "state": {0: {**states[0], **moments}}}
    return {**first, **merged, "averages": others, "optimizer": optimizer}


_MODULES = ("denoiser", "ema")
_MOMENTS = ("exp_avg", "exp_avg_sq")


def _union(states: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The weights of all of them; all have the encoder's."""
    return {name: weight for state in states for name, weight in state.items()}


def _joined(vectors: list[Tensor], shared: int) -> Tensor:
    """Flat vectors of the encoder and one decoder each, as one of the encoder and all decoders."""
    return torch.cat([vectors[0][:shared], *(vector[shared:] for vector in vectors)])
