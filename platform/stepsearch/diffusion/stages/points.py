"""The data set as points: pixels or latents, wherever they lie, never copied as a whole."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from stepsearch.errors import UserError

_BLOCK = 64 * 2**20
"""Bytes of float64 that a look at all points takes at a time."""


@dataclass(frozen=True)
class Points:
    """N points of d numbers; `rows[i] / unit` is what the noise kernel adds noise to.

    A change of a coordinate counts against its `span`, the range of its values after that
    division.
    """

    rows: Tensor
    """[N, d], of any real dtype, on any device."""
    unit: float
    mean: Tensor
    """Of the rows, before the division; float32 [d]."""
    span: Tensor
    """float32 [d]"""

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def d(self) -> int:
        return self.rows.shape[1]

    def centred(self, rows: Tensor, device: torch.device) -> Tensor:
        """Some of the rows in the kernel's unit, their mean taken off; a new float32 tensor."""
        moved = rows.to(device, torch.float32, copy=True)
        return moved.sub_(self.mean.to(device)).div_(self.unit)


def pixels(images: Tensor, *, signed: bool = False) -> Points:
    """Images as uint8, or as floats in [-1, 1]; [N, ...].

    The kernel adds its noise to pixels in [0, 1], as the multi-stage paper's code does, or, if
    `signed`, to pixels in [-1, 1], as a denoiser is trained. Raises UserError unless there are two
    different images.
    """
    rows = _rows(images)
    full = 255.0 if rows.dtype == torch.uint8 else 2.0
    low, high, mean = _statistics(rows)
    if full == 2 and not (low.min() >= -1 and high.max() <= 1):
        bounds = f"{low.min():g}..{high.max():g}"
        raise UserError(f"pixels must be uint8 or in -1..1, got values in {bounds}")
    span = 2.0 if signed else 1.0
    return Points(rows, full / span, mean, torch.full_like(mean, span))


def latents(values: Tensor) -> Points:
    """Latents as floats [N, C, ...]; the kernel adds its noise to them as they are.

    A change counts against the range of its channel. Raises UserError unless all are finite and
    two differ.
    """
    rows = _rows(values)
    low, high, mean = _statistics(rows)
    channels = values.shape[1]
    low = low.view(channels, -1).amin(1, keepdim=True)
    high = high.view(channels, -1).amax(1, keepdim=True)
    span = (high - low).expand(channels, rows.shape[1] // channels)
    return Points(rows, 1.0, mean, span.flatten())


def _rows(values: Tensor) -> Tensor:
    if values.ndim < 2 or not values[0:1].numel():
        raise UserError(f"the data set must have shape [N, ...], got {tuple(values.shape)}")
    if len(values) < 2:
        raise UserError(f"the data set must hold at least 2 images, got {len(values)}")
    return values.flatten(1)


def _statistics(rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The least, the largest and the mean value of each coordinate; float32 [d] on the CPU.

    Raises UserError where a value is not finite, or where all rows are the same.
    """
    total = torch.zeros(rows.shape[1], dtype=torch.float64)
    low, high = total + torch.inf, total - torch.inf
    for block in _blocks(rows):
        total += block.sum(0)
        low, high = torch.minimum(low, block.amin(0)), torch.maximum(high, block.amax(0))
    if not total.isfinite().all():
        raise UserError("the data set must hold finite numbers, got NaN or infinite ones")
    if torch.equal(low, high):
        raise UserError(
            f"the data set must hold at least 2 different images, got {len(rows)} identical ones"
        )
    return low.float(), high.float(), (total / len(rows)).float()


def _blocks(rows: Tensor) -> Iterator[Tensor]:
    for block in torch.split(rows, max(1, _BLOCK // (8 * rows.shape[1]))):
        yield block.to("cpu", torch.float64)
