"""What one Ray worker does: one file a kind of trial, and the table of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stepsearch.config import parse
from stepsearch.errors import UserError
from trainers.denoising import DenoisingConfig

TRAINERS: dict[str, type[DenoisingConfig]] = {"denoising": DenoisingConfig}

AnyTrainer = DenoisingConfig


def trainer(kind: str = "denoising", **fields: Any) -> DenoisingConfig:
    """The trainer `kind` with these fields, e.g. trainer("denoising", training={"lr": 2e-3})."""
    if kind not in TRAINERS:
        raise UserError(f"trainer.kind must be one of {', '.join(TRAINERS)}, got {kind!r}")
    data: Mapping[str, Any] = fields
    return parse(TRAINERS[kind], data, where="trainer")


__all__ = ["TRAINERS", "AnyTrainer", "DenoisingConfig", "trainer"]
