"""The optimal denoiser of a data set in several parts, each where a worker is.

A softmax over all points is known from its sums over any parts of them (`optimal.merge`), so the
workers get the same few y and noise, sum over their own points, and nothing else moves.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from typing import Concatenate, ParamSpec, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from stepsearch.diffusion.stages.optimal import OptimalDenoiser, Sums, merge
from stepsearch.diffusion.stages.points import (
    Statistics,
    check_shape,
    joined,
    latents,
    pixels,
    statistics,
)
from stepsearch.errors import UserError

Read = Callable[[], tuple[Tensor, bool]]
"""The data set [N, C, ...], and whether it is pixels; called on every worker."""
Array = npt.NDArray[np.float32]
"""What is sent to workers and back: Ray moves arrays without copies, and tensors not."""
P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True)
class Look:
    """What a worker has read."""

    shape: tuple[int, ...]
    """Of the whole data set."""
    is_pixels: bool
    part: Statistics


class Shard:
    """One worker's part of the data set: images N part / parts to N (part + 1) / parts."""

    def __init__(
        self, read: Read, part: int, parts: int, *, signed: bool, device: str, memory: int
    ) -> None:
        """`memory`, in bytes, bounds what is held beside the part."""
        self._read, self._part, self._parts = read, part, parts
        self._signed, self._device, self._memory = signed, device, memory

    def look(self) -> Look:
        """Read the part. Raises UserError where there are fewer images than parts, or none."""
        values, self._is_pixels = self._read()
        check_shape(values)
        n = len(values)
        if n < self._parts:
            raise UserError(
                f"workers must be at most one for each of {n} images, got {self._parts}"
            )
        self._begin = n * self._part // self._parts
        self._values = values[self._begin : n * (self._part + 1) // self._parts]
        return Look(tuple(values.shape), self._is_pixels, statistics(self._values))

    def begin(self, whole: Statistics) -> Array:
        """Be ready for what follows; the span of each coordinate (see `Points`), [d]."""
        if self._is_pixels:
            points = pixels(self._values, signed=self._signed, whole=whole)
        else:
            points = latents(self._values, whole=whole)
        self._denoiser = OptimalDenoiser(points, device=self._device, memory=self._memory)
        span: Array = points.span.numpy()
        return span

    def batch(self, levels: int) -> int:
        return self._denoiser.batch(levels)

    def at(self, chosen: npt.NDArray[np.int64]) -> Array:
        """Those of the chosen points that are here, in their order."""
        own = chosen - self._begin
        rows: Array = self._denoiser.at(own[(own >= 0) & (own < len(self._values))]).cpu().numpy()
        return rows

    def sums(self, y: Array, noise: Array, sigma: Array) -> tuple[Array, Array, Array]:
        """Over this part: see `OptimalDenoiser.sums`."""
        arguments = (torch.tensor(each, device=self._device) for each in (y, noise, sigma))
        top, total, weighted = (each.cpu().numpy() for each in self._denoiser.sums(*arguments))
        return top, total, weighted


class Everywhere(Protocol):
    """Calls a method of all shards at the same time; what they return, in the order of parts."""

    def __call__(
        self, method: Callable[Concatenate[Shard, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> list[T]: ...


class ShardedDenoiser:
    """As an `OptimalDenoiser` over the points of all shards; it holds none itself."""

    def __init__(self, everywhere: Everywhere, *, memory: int) -> None:
        """`memory`, in bytes, bounds what is held here.

        Raises UserError where the workers do not read the same, and for such data as `pixels` and
        `latents` refuse.
        """
        self._everywhere, self._memory = everywhere, memory
        looks = everywhere(Shard.look)
        shapes = sorted({look.shape for look in looks})
        if len(shapes) > 1:
            got = " and ".join(map(str, shapes))
            raise UserError(f"the data set must be the same for all workers, got {got}")
        counts = [look.part.count for look in looks]
        self._ends = np.cumsum(counts)
        whole = joined([look.part for look in looks])
        self.span = torch.tensor(everywhere(Shard.begin, whole)[0])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def batch(self, levels: int) -> int:
        """How many y, at so many noise levels each, one call of `posterior_mean` may have."""
        answers, merging = len(self._ends), 4
        each = 4 * ((answers + merging) * levels + 6) * len(self.span)
        if self._memory < each:
            raise UserError(
                f"memory must be at least {-(-each // 2**20)} MiB for points of {len(self.span)}"
                f" numbers on {answers} workers, got {self._memory // 2**20}"
            )
        return min(self._memory // each, *self._everywhere(Shard.batch, levels))

    def at(self, chosen: npt.NDArray[np.int64]) -> Tensor:
        """See `OptimalDenoiser.at`."""
        shard = np.searchsorted(self._ends, chosen, side="right")
        rows = torch.empty(len(chosen), len(self.span))
        for part, found in enumerate(self._everywhere(Shard.at, chosen)):
            rows[torch.from_numpy(shard == part)] = torch.tensor(found)
        return rows

    def posterior_mean(self, y: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
        """See `OptimalDenoiser.posterior_mean`."""
        arrays = (each.numpy() for each in (y, noise, sigma.contiguous()))
        parts = self._everywhere(Shard.sums, *arrays)
        return reduce(merge, (Sums(*map(torch.tensor, part)) for part in parts)).mean()
