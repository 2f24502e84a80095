"""One process's place in a group of data-parallel workers."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from stepsearch.errors import UserError

_CPU = torch.device("cpu")


@dataclass(frozen=True)
class Workers:
    """Who am I in the worker group, and where do I compute?

    With `size` > 1 the caller has initialised torch.distributed.
    """

    rank: int = 0
    size: int = 1
    device: torch.device = _CPU

    def share(self, batch_size: int) -> slice:
        """This worker's contiguous part of a global batch; all parts are equally large."""
        if batch_size % self.size:
            raise UserError(
                f"training.batch_size must be a multiple of the {self.size} workers,"
                f" got {batch_size}"
            )
        part = batch_size // self.size
        return slice(self.rank * part, (self.rank + 1) * part)

    def gather(self, values: Tensor) -> Tensor:
        """The equally long `values` of all workers, in the order of their ranks."""
        if self.size == 1:
            return values
        parts = [torch.empty_like(values) for _ in range(self.size)]
        torch.distributed.all_gather(parts, values.contiguous())
        return torch.cat(parts)

    def sum(self, values: Tensor) -> Tensor:
        """The sum over all workers, which overwrites `values`."""
        if self.size > 1:
            torch.distributed.all_reduce(values)
        return values


ALONE = Workers()
"""A single process on the CPU."""
