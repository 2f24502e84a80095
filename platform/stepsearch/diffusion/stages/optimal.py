"""The optimal denoiser of a data set: the posterior mean of x_0, a softmax over all its points.

With x^ = x_t / s_t = y + sigma eps, the least loss has (Proposition 1 of the multi-stage paper)

    eps*(x_t, t) = (x^ - E) / sigma_t,  E = sum_i w_i y_i,
    w = softmax_i((<x^, y_i> - |y_i|^2 / 2) / sigma_t^2)

|x^|^2 / 2, which is all of the distance at t -> 1, is the same for all i and drops out: that is
why float32 is enough. The softmax is a stream over chunks of the data, so that neither the
distances nor the weights are ever held as a whole.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from stepsearch.diffusion.stages.points import Points
from stepsearch.errors import UserError

_CHUNK = 2048
"""Points at a time: enough for matrix products at full speed."""
_NEGLIGIBLE = 40.0
"""A weight below e^-40 of the largest one is no part of a float32 sum, be it a million times."""

_ROUNDING = 1e-4
"""Of a product of two vectors in float32, relative to their lengths, at most."""


def check_device(device: str) -> None:
    """Raise UserError unless this machine has it."""
    try:
        torch.zeros(1, device=device).cpu()
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"device must be one of this machine, got {device!r}: {reason}") from None


class Sums(NamedTuple):
    """Of the softmaxes over some of the data, for B points at L noise levels each."""

    top: Tensor
    """The largest logits, or guesses at them: what weights are relative to; [B, L]."""
    total: Tensor
    """The weights, [B, L]."""
    weighted: Tensor
    """The points times their weights, [B, L, d]."""

    def mean(self) -> Tensor:
        """E [B, L, d], over all points that were summed; overwrites the sums."""
        return self.weighted.div_(self.total[..., None])


def merge(a: Sums, b: Sums) -> Sums:
    """Over the points of both; overwrites a."""
    top = torch.maximum(a.top, b.top)
    of_a, of_b = (a.top - top).exp_(), (b.top - top).exp_()
    a.total.mul_(of_a).addcmul_(b.total, of_b)
    a.weighted.mul_(of_a[..., None]).addcmul_(b.weighted, of_b[..., None])
    return a._replace(top=top)


class OptimalDenoiser:
    """E and what follows from it, for points y with noise eps; deterministic."""

    def __init__(
        self, points: Points, *, device: torch.device | str = "cpu", memory: int = 512 * 2**20
    ) -> None:
        """`memory`, in bytes, bounds what is held beside the points, on the device.

        Raises UserError if it cannot hold a single point's work, or without such a device.
        """
        check_device(str(device))
        self.points, self.device, self._memory = points, torch.device(device), memory
        self._chunk = max(1, min(_CHUNK, len(points), memory // 4 // (8 * points.d)))
        self.batch(1)

    def batch(self, levels: int) -> int:
        """How many y, at so many noise levels each, one call of `posterior_mean` may have."""
        floats = self._memory // 4 - 2 * self._chunk * self.points.d
        each = (6 + 4 * levels) * self.points.d + (3 * levels + 3) * self._chunk
        if floats < each:
            needed = 4 * (each + 2 * self._chunk * self.points.d)
            raise UserError(
                f"memory must be at least {-(-needed // 2**20)} MiB for points of"
                f" {self.points.d} numbers, got {self._memory // 2**20}"
            )
        return floats // each

    def __len__(self) -> int:
        return len(self.points)

    @property
    def span(self) -> Tensor:
        """Of each coordinate (see `Points`); [d]."""
        return self.points.span

    def at(self, chosen: npt.NDArray[np.int64]) -> Tensor:
        """Points of the data, centred and in the kernel's unit (see `Points.centred`)."""
        rows = self.points.rows
        return self.points.centred(rows[torch.from_numpy(chosen).to(rows.device)], self.device)

    def posterior_mean(self, y: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
        """E at x^ = y + sigma eps, y being points of the data.

        y is centred and in the kernel's unit, and so is E: y and noise [B, d], sigma [B, L], for L
        levels of the same noise, gives [B, L, d].
        """
        return self.sums(y, noise, sigma).mean()

    def sums(self, y: Tensor, noise: Tensor, sigma: Tensor) -> Sums:
        """What `posterior_mean` is made of; y need not be one of these points."""
        levels = sigma.shape[1]
        means = [_RunningMean(*self._own(y, noise, sigma[:, i])) for i in range(levels)]
        x = y + sigma * noise if levels == 1 else None
        for rows in torch.split(self.points.rows, self._chunk):
            chunk = self.points.centred(rows, self.device)
            half = chunk.square().sum(1).div_(2)
            along_x = torch.mm(y if x is None else x, chunk.T).sub_(half)
            along_noise = None if x is not None else torch.mm(noise, chunk.T)
            for i, mean in enumerate(means):
                level = sigma[:, i, None]
                # <y + sigma eps, y_i>: two products do for all levels of the same noise
                scores = along_x if along_noise is None else along_x + level * along_noise
                mean.add(scores / level.square(), chunk)
        parts = zip(*(mean.sums() for mean in means), strict=True)
        return Sums(*(torch.stack(part, dim=1) for part in parts))

    @staticmethod
    def _own(y: Tensor, noise: Tensor, sigma: Tensor) -> tuple[Tensor, int]:
        """Hardly less than the logit of y itself: at low noise the largest, so that all else is
        known to be 0. Never more, however it is rounded, or y itself would be taken for 0."""
        square = y.square().sum(1)
        inner = square / 2 + sigma * (y * noise).sum(1)
        rounding = _ROUNDING * (square + sigma * square.sqrt() * noise.norm(dim=1))
        return (inner - rounding) / sigma.square(), y.shape[1]


class _RunningMean:
    """A softmax-weighted mean of rows that come in chunks, for B softmaxes at once."""

    def __init__(self, top: Tensor, d: int) -> None:
        """`top` [B]: the largest logits so far, or a guess at them."""
        self._top = top
        self._total = torch.zeros_like(top)
        self._sum = top.new_zeros(len(top), d)

    def add(self, logits: Tensor, rows: Tensor) -> None:
        """`logits` [B, C] of `rows` [C, d]; overwrites the logits."""
        top = torch.maximum(self._top, logits.amax(1))
        logits.sub_(top[:, None])
        shrink = (self._top - top).exp_()
        self._top = top
        self._total.mul_(shrink)
        self._sum.mul_(shrink[:, None])
        counts = (logits.amax(0) > -_NEGLIGIBLE).nonzero()[:, 0]
        if len(counts) == 0:
            return
        if len(counts) < len(rows):
            logits, rows = logits[:, counts], rows[counts]
        weights = logits.exp_()
        self._total += weights.sum(1)
        self._sum.addmm_(weights, rows)

    def sums(self) -> tuple[Tensor, Tensor, Tensor]:
        return self._top, self._total, self._sum
