"""The data set as points: pixels or latents, wherever they lie, never copied as a whole."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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


@dataclass(frozen=True)
class Statistics:
    """The least, the largest and the summed value of each coordinate; float64 [d] on the CPU."""

    count: int
    low: Tensor
    high: Tensor
    total: Tensor

    @property
    def mean(self) -> Tensor:
        return (self.total / self.count).float()

    def check(self) -> None:
        """Raises UserError unless all values are finite, and two points differ."""
        if self.count < 2:
            raise UserError(f"the data set must hold at least 2 images, got {self.count}")
        if not self.total.isfinite().all():
            raise UserError("the data set must hold finite numbers, got NaN or infinite ones")
        if torch.equal(self.low, self.high):
            raise UserError(
                f"the data set must hold at least 2 different images, got {self.count} identical"
                " ones"
            )


def statistics(values: Tensor) -> Statistics:
    """Of images or latents [N, ...]."""
    rows = _rows(values)
    total = torch.zeros(rows.shape[1], dtype=torch.float64)
    low, high = total + torch.inf, total - torch.inf
    for block in _blocks(rows):
        total += block.sum(0)
        low, high = torch.minimum(low, block.amin(0)), torch.maximum(high, block.amax(0))
    return Statistics(len(rows), low, high, total)


def joined(parts: Sequence[Statistics]) -> Statistics:
    """Of all points of the parts together."""
    return Statistics(
        sum(part.count for part in parts),
        torch.stack([part.low for part in parts]).amin(0),
        torch.stack([part.high for part in parts]).amax(0),
        torch.stack([part.total for part in parts]).sum(0),
    )


def pixels(images: Tensor, *, signed: bool = False, whole: Statistics | None = None) -> Points:
    """Images as uint8, or as floats in [-1, 1]; [N, ...].

    The kernel adds its noise to pixels in [0, 1], as the multi-stage paper's code does, or, if
    `signed`, to pixels in [-1, 1], as a denoiser is trained. `whole` is of the data set that they
    are a part of. Raises UserError unless there are two different images.
    """
    rows, whole = _rows(images), whole or statistics(images)
    whole.check()
    full = 255.0 if rows.dtype == torch.uint8 else 2.0
    if full == 2 and not (whole.low.min() >= -1 and whole.high.max() <= 1):
        bounds = f"{whole.low.min():g}..{whole.high.max():g}"
        raise UserError(f"pixels must be uint8 or in -1..1, got values in {bounds}")
    span = 2.0 if signed else 1.0
    return Points(rows, full / span, whole.mean, torch.full_like(whole.mean, span))


def latents(values: Tensor, *, whole: Statistics | None = None) -> Points:
    """Latents as floats [N, C, ...]; the kernel adds its noise to them as they are.

    A change counts against the range of its channel. `whole` is of the data set that they are a
    part of. Raises UserError unless all are finite and two differ.
    """
    rows, whole = _rows(values), whole or statistics(values)
    whole.check()
    channels = values.shape[1]
    low = whole.low.view(channels, -1).amin(1, keepdim=True)
    high = whole.high.view(channels, -1).amax(1, keepdim=True)
    span = (high - low).float().expand(channels, rows.shape[1] // channels)
    return Points(rows, 1.0, whole.mean, span.flatten())


def check_shape(values: Tensor) -> None:
    """Raise UserError unless they are points, [N, ...]."""
    if values.ndim < 2 or not values[0:1].numel():
        raise UserError(f"the data set must have shape [N, ...], got {tuple(values.shape)}")


def _rows(values: Tensor) -> Tensor:
    check_shape(values)
    return values.flatten(1)


def _blocks(rows: Tensor) -> Iterator[Tensor]:
    for block in torch.split(rows, max(1, _BLOCK // (8 * rows.shape[1]))):
        yield block.to("cpu", torch.float64)
