"""The order in which training sees its images."""

from __future__ import annotations

import torch
from torch import Tensor

from stepsearch.diffusion.seeds import generator


class DataOrder:
    """An endless stream of image indices: each epoch is one seeded permutation of 0..size-1.

    Entry k of the stream is entry k mod size of epoch k // size's permutation, so the stream can
    be entered anywhere: a resumed run needs to know nothing but how many images it has seen.
    """

    def __init__(self, size: int, seed: int, device: torch.device) -> None:
        self.size = size
        self.seed = seed
        self.device = device
        self._epoch = -1
        self._permutation = torch.empty(0, dtype=torch.int64)

    def indices(self, start: int, count: int) -> Tensor:
        """Entries start..start+count-1 of the stream, int64 [count] on the device."""
        end, parts = start + count, []
        while start < end:
            epoch, offset = divmod(start, self.size)
            parts.append(self._epoch_order(epoch)[offset : offset + end - start])
            start += len(parts[-1])
        return torch.cat(parts)

    def _epoch_order(self, epoch: int) -> Tensor:
        if epoch != self._epoch:
            order = torch.randperm(self.size, generator=generator("order", self.seed, epoch))
            self._permutation = order.to(self.device)
            self._epoch = epoch
        return self._permutation
