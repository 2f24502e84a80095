"""How a denoiser is computed in training: in which precision, layout and memory."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, get_args

import torch
from torch import Tensor, nn

from stepsearch.diffusion.training_config import Precision, TrainingConfig
from stepsearch.errors import UserError


def autocast(precision: Precision, device: torch.device) -> AbstractContextManager[Any]:
    """Inside, a network computes in `precision` wherever torch finds that safe."""
    if precision == "float32":
        return nullcontext()
    return torch.autocast(device.type, getattr(torch, precision))


def lay_out_channels_last(denoiser: nn.Module) -> None:
    """Let every convolution of the denoiser see, and so make, images with the channels last.

    The weights stay as they are. diffusers' residual blocks undo the layout while they train, so
    that it is not enough to begin with it.
    """
    for module in denoiser.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_pre_hook(_channels_last)


def _channels_last(module: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
    """For one channel too, where `contiguous` sees nothing to do."""
    (x,) = inputs
    if x.stride(1) == 1:
        return inputs
    return (torch.empty_like(x, memory_format=torch.channels_last).copy_(x),)


def check_execution(config: TrainingConfig, denoiser: nn.Module, starts: Sequence[int]) -> None:
    """Raise UserError unless the denoiser, with stages from `starts` on, can be computed so."""
    if config.gradient_checkpointing and not getattr(
        denoiser, "_supports_gradient_checkpointing", False
    ):
        raise UserError(
            "training.gradient_checkpointing must be false for a denoiser that cannot compute its"
            f" forward again, as {type(denoiser).__name__}, got true"
        )
    if config.compile and starts:
        raise UserError("training.compile must be false for a denoiser with stages, got true")


def check_precision(precision: Precision, device: torch.device) -> None:
    """Raise UserError unless the device computes in it."""
    there = precisions(device)
    if precision not in there:
        raise UserError(
            f"training.precision must be {' or '.join(there)} on {device.type} here,"
            f" got {precision!r}"
        )


def precisions(device: torch.device) -> tuple[Precision, ...]:
    """What torch computes in on a device; all three on a CPU, float16 slowly."""
    if not torch.amp.is_autocast_available(device.type):
        return ("float32",)
    if device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        return ("float32", "float16")
    return get_args(Precision)
