"""The fields of `trainer.training`: everything about a training but its data and its strategy."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from stepsearch.config import Config
from stepsearch.strategies.base import PredictionType

Precision = Literal["float32", "bfloat16", "float16"]


class TrainingConfig(Config):
    """How the denoiser's weights follow from its loss; nothing here depends on the strategy."""

    batch_size: int = Field(default=64, ge=1)
    """Images a step, over all workers together."""
    lr: float = Field(default=4e-3, gt=0)
    """AdamW's learning rate after the warm-up."""
    lr_scheduler: Literal["constant", "cosine"] = "cosine"
    """What follows the warm-up: the same rate, or half a cosine to 0 at the end of the budget."""
    warmup_steps: int = Field(default=50, ge=0)
    """Steps in which the learning rate rises linearly from 0."""
    weight_decay: float = Field(default=0.0, ge=0)
    grad_clip: float = Field(default=1.0, gt=0)
    """The gradient is scaled down to this norm where it is longer."""
    accumulation: int | None = Field(default=None, ge=1)
    """Slices in which a worker computes the gradient of its share of a batch; none: 1, and twice
    as many each time that the memory does not hold one. With dropout it changes what is dropped,
    and not rounding only."""
    ema_decay: float = Field(default=0.99, ge=0, lt=1)
    """Of the average that is judged, a step."""
    ema_halflives: tuple[Annotated[int, Field(ge=1)], ...] = Field(default=(), max_length=8)
    """Further averages, by the images in which a weight's share halves (EDM's convention): kept in
    the checkpoint and exported, not judged."""
    label_dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of the images of which a denoiser with classes is told the null class."""
    prediction_type: PredictionType = "epsilon"
    """The denoiser's target: eps, v or x0 on vp, the velocity on flow, the network F on edm."""
    precision: Precision = "float32"
    """In which the denoiser's forward and backward compute where autocast finds it safe; weights,
    loss, averages and all judged images are float32."""
    compile: bool = False
    """Compile the denoiser's forward and backward with torch.compile, in the first steps."""
    channels_last: bool = False
    """Keep the channels of images and kernels together in the memory."""
    gradient_checkpointing: bool = False
    """Keep less of the forward and compute it again in the backward, in less memory."""

    @field_validator("ema_halflives")
    @classmethod
    def _different(cls, halflives: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(halflives)) < len(halflives):
            raise ValueError(f"ema_halflives must differ from each other, got {list(halflives)}")
        return halflives

    def decay(self, halflife: int) -> float:
        """The decay a step of an average with this half-life in images: 2^(-batch / halflife)."""
        return float(0.5 ** (self.batch_size / halflife))
