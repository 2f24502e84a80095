"""The factor on the loss by which float16 holds gradients that it would take for zero."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from stepsearch.diffusion.training_config import Precision

_FIRST, _LEAST = 2.0**16, 1.0
_PATIENCE = 2000
"""Steps without an overflow after which the scale is doubled."""


class LossScale:
    """1: what float32 and bfloat16 need, which have the same exponents."""

    @property
    def skipped(self) -> int:
        """Steps that were left out because their gradient overflowed."""
        return 0

    def up(self, loss: Tensor) -> Tensor:
        """What backward is to begin with."""
        return loss

    def down(self, gradient: Tensor) -> None:
        """Make the flat gradient that of the loss again."""

    def step(self, optimizer: torch.optim.Optimizer, grad_norm: Tensor) -> Tensor:
        """Move the weights; returns the gradient's norm, 0 where it made no step."""
        optimizer.step()
        return grad_norm

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state`; without any, begin anew."""


class DynamicLossScale(LossScale):
    """As large as float16 allows (Micikevicius et al. 2018), as torch.amp.GradScaler finds it.

    The scale is halved and the step left out where the gradient overflows, and doubled after 2000
    steps without. All workers see the norm of the whole gradient and so do the same. At scale 1
    an overflow is the training's own, and its norm is returned: the training has diverged.
    Nothing waits for the device.
    """

    def __init__(self, device: torch.device) -> None:
        self._scale = torch.tensor(_FIRST, device=device)
        self._without = torch.tensor(0, device=device)
        self._skipped = torch.tensor(0, device=device)

    @property
    def skipped(self) -> int:
        return int(self._skipped)

    def up(self, loss: Tensor) -> Tensor:
        return loss * self._scale

    def down(self, gradient: Tensor) -> None:
        gradient /= self._scale

    def step(self, optimizer: torch.optim.Optimizer, grad_norm: Tensor) -> Tensor:
        finite = grad_norm.isfinite()
        optimizer.found_inf = (~finite).float()  # type: ignore[attr-defined]  # fused ones look
        optimizer.step()
        counted = torch.where(finite | (self._scale == _LEAST), grad_norm, 0)
        self._adapt(finite)
        return counted

    def _adapt(self, finite: Tensor) -> None:
        self._skipped += ~finite
        self._without = torch.where(finite, self._without + 1, 0)
        grows = self._without == _PATIENCE
        factor = torch.where(finite, torch.where(grows, 2.0, 1.0), 0.5)
        self._scale = (self._scale * factor).clamp(min=_LEAST)
        self._without *= ~grows

    def state_dict(self) -> dict[str, Any]:
        return {"scale": self._scale, "without": self._without, "skipped": self._skipped}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state:
            device = self._scale.device
            self._scale = state["scale"].to(device, copy=True)
            self._without = state["without"].to(device, copy=True)
            self._skipped = state["skipped"].to(device, copy=True)


def loss_scale(precision: Precision, device: torch.device) -> LossScale:
    """What a training in this precision needs."""
    return DynamicLossScale(device) if precision == "float16" else LossScale()
