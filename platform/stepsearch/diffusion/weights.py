"""Weights in folders as diffusers writes them: one file of safetensors beside a config.json."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from stepsearch.errors import UserError

WEIGHTS = "diffusion_pytorch_model.safetensors"
LARGEST_CONFIG = 2**16
"""Bytes of a config.json."""

_LARGEST_GIB = 10
"""GiB of weights; diffusers cuts larger ones into several files."""
_FEWEST_BYTES = 2
"""Of a weight, in half precision."""
_LONGEST_REASON = 300


def check_weights(folder: Path, field: str) -> None:
    """Raise UserError, in the name of `field`, unless the weights are there; they are not read."""
    file = folder / WEIGHTS
    if not file.is_file() or (folder / f"{WEIGHTS}.index.json").exists():
        raise UserError(
            f"{field} must hold its weights in one file {WEIGHTS}, got {str(folder)!r}"
        )
    if file.stat().st_size > _LARGEST_GIB * 2**30:
        raise UserError(
            f"{field} must hold at most {_LARGEST_GIB} GiB of weights,"
            f" got {file.stat().st_size / 2**30:.1f} GiB: {folder}"
        )


def load_weights(network: Any, folder: Path, field: str) -> torch.nn.Module:
    """The network of this class on the CPU, in float32.

    Raises UserError unless config and weights agree. No more memory is taken than the file of
    weights allows.
    """
    try:
        with torch.device("meta"):
            sketch = network.from_config(network.load_config(folder, local_files_only=True))
        expected = sum(parameter.numel() for parameter in sketch.parameters())
        if expected * _FEWEST_BYTES > (size := (folder / WEIGHTS).stat().st_size):
            raise ValueError(f"{expected} weights, but {size} bytes for them")
        loaded, info = network.from_pretrained(
            folder,
            local_files_only=True,
            use_safetensors=True,
            torch_dtype=torch.float32,
            low_cpu_mem_usage=False,
            output_loading_info=True,
        )
        if strangers := [*info["missing_keys"], *info["unexpected_keys"]]:
            raise ValueError(f"{strangers[0]} in one of them only")
    except Exception as error:  # of diffusers and torch, whatever the values make them raise
        reason = " ".join(str(error).split())[:_LONGEST_REASON] or type(error).__name__
        raise UserError(
            f"{field} must hold weights that fit its config.json, got {reason}: {folder}"
        ) from error
    found: torch.nn.Module = loaded
    return found
