"""What one Ray worker does: one file a kind of trial, and the table of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from stepsearch.config import parse
from stepsearch.errors import UserError
from trainers.denoising import DenoisingConfig
from trainers.timetuner import TimeTunerConfig

TRAINERS: dict[str, type[DenoisingConfig] | type[TimeTunerConfig]] = {
    "denoising": DenoisingConfig,
    "timetuner": TimeTunerConfig,
}


def _denoising_unless_said(trainer: Any) -> Any:
    return {"kind": "denoising"} | trainer if isinstance(trainer, dict) else trainer


AnyTrainer = Annotated[
    Annotated[DenoisingConfig | TimeTunerConfig, Field(discriminator="kind")],
    BeforeValidator(_denoising_unless_said),
]


def trainer(kind: str = "denoising", **fields: Any) -> Any:
    """The trainer `kind` with these fields, e.g. trainer("denoising", training={"lr": 2e-3})."""
    if kind not in TRAINERS:
        raise UserError(f"trainer.kind must be one of {', '.join(TRAINERS)}, got {kind!r}")
    data: Mapping[str, Any] = fields
    return parse(TRAINERS[kind], data, where="trainer")


__all__ = ["TRAINERS", "AnyTrainer", "DenoisingConfig", "TimeTunerConfig", "trainer"]
