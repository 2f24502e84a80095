"""How the workers of a training share a denoiser, its batches and its gradients."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import get_total_norm

from stepsearch.diffusion.checkpoints import read_latest, write_checkpoint
from stepsearch.diffusion.workers import Workers


class DataParallel:
    """Every worker has the whole denoiser and an equal part of each batch."""

    shards = 1
    """Workers, the first ones, that write a part of a checkpoint."""

    def __init__(self, workers: Workers, batch_size: int) -> None:
        """Raises UserError if the workers cannot share a batch evenly."""
        self.workers = workers
        self.share = workers.share(batch_size)
        """This worker's images of a batch."""
        self._network: nn.Module | None = None

    def held(self, denoiser: nn.Module) -> nn.Module:
        """What this worker has of the denoiser."""
        return denoiser

    def wrapped(self, held: nn.Module, slices: int) -> nn.Module:
        """What the loss is computed with; its backward may exchange gradients."""
        from stepsearch.diffusion.multistage.networks import MultistageModel

        if self.workers.size == 1:
            return held
        lacking = False
        if isinstance(held, MultistageModel):
            images = self.share.stop - self.share.start
            lacking = slices > 1 or images < len(held.decoders)  # a slice may lack a stage
        self._network = DistributedDataParallel(held, find_unused_parameters=lacking)
        return self._network

    def alone(self) -> AbstractContextManager[None]:
        """No exchange of gradients inside."""
        network = self._network
        return network.no_sync() if isinstance(network, DistributedDataParallel) else nullcontext()

    def exchange(self, gradient: Tensor) -> None:
        """Make the flat gradient that of the mean loss of all workers; DDP has done it."""

    def norm(self, gradient: Tensor) -> Tensor:
        """Of the whole denoiser's gradient."""
        return get_total_norm([gradient])

    def whole(self, held: nn.Module) -> nn.Module:
        """The whole denoiser, on all workers alike; all of them call this."""
        return held

    def save(self, state: dict[str, Any], path: Path) -> None:
        """Write this worker's part of the checkpoint `path`."""
        write_checkpoint(state, path)

    def latest(self, path: Path) -> dict[str, Any] | None:
        """This worker's part of the last checkpoint that is whole; all workers call this."""
        return read_latest(path)
