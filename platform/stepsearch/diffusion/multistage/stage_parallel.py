"""Training with one stage on each worker, which holds the encoder and one decoder only."""

from __future__ import annotations

import copy
import os
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from stepsearch.diffusion.checkpoints import read_whole, write_checkpoint
from stepsearch.diffusion.multistage.shards import earlier, shard
from stepsearch.diffusion.parallel import DataParallel
from stepsearch.diffusion.workers import Workers
from stepsearch.errors import UserError


class StageParallel(DataParallel):
    """Worker r has the encoder and the decoder of stage r mod n: Algorithm 3 of the paper.

    Its images are those of its stage, see `StagedStrategy`. The encoder's gradient is the mean
    over all workers; a decoder's is summed over the workers of its stage and divided by the number
    of all, as it comes out where every worker has all stages.
    """

    def __init__(self, workers: Workers, batch_size: int, stages: int) -> None:
        """Raises UserError unless there are equally many workers for every stage."""
        super().__init__(workers, batch_size)
        check_stage_workers(workers.size, stages)
        self.shards, self.stage = stages, workers.rank % stages
        part = batch_size // workers.size
        first = workers.rank // stages * part * stages + self.stage
        self.share = slice(first, first + part * stages, stages)

    def held(self, denoiser: nn.Module) -> nn.Module:
        decoders: Any = denoiser.decoders
        self._shapes = [copy.deepcopy(decoder).to("meta") for decoder in decoders]
        self._own = sum(p.numel() for p in decoders[self.stage].parameters())
        for stage in range(self.shards):
            if stage != self.stage:
                decoders[stage] = nn.Module()
        return denoiser

    def wrapped(self, held: nn.Module, slices: int) -> nn.Module:
        return held

    def exchange(self, gradient: Tensor) -> None:
        gradient /= self.workers.size
        torch.distributed.all_reduce(gradient[: -self._own])
        group = _stage_groups(torch.distributed.group.WORLD, self.workers.size, self.shards)
        torch.distributed.all_reduce(gradient[-self._own :], group=group[self.stage])

    def norm(self, gradient: Tensor) -> Tensor:
        encoder, own = gradient[: -self._own], gradient[-self._own :]
        decoders = own.square().sum() * self.shards / self.workers.size
        return (encoder.square().sum() + self.workers.sum(decoders)).sqrt()

    def whole(self, held: nn.Module) -> nn.Module:
        """A copy with all decoders, which the first worker of each stage gives to all."""
        made = copy.deepcopy(held)
        decoders: Any = made.decoders
        for stage, shape in enumerate(self._shapes):
            if stage != self.stage:
                decoders[stage] = copy.deepcopy(shape).to_empty(device=self.workers.device)
            for parameter in decoders[stage].parameters():
                torch.distributed.broadcast(parameter.data, src=stage)
        return made.eval().requires_grad_(False)

    def save(self, state: dict[str, Any], path: Path) -> None:
        part = shard(path, self.stage)
        write_checkpoint(state, part, earlier(part))

    def latest(self, path: Path) -> dict[str, Any] | None:
        """A worker may have died between two parts: the last checkpoint of which all are there.

        It becomes the last one here, too: what is written next keeps it until all parts are.
        """
        part = shard(path, self.stage)
        mine: dict[int, tuple[Path, dict[str, Any]]] = {}
        for file, state in reversed([*read_whole(part, earlier(part))]):
            mine[state["images_seen"]] = file, state
        seen = torch.full((2,), -1, device=self.workers.device)
        seen[: len(mine)] = torch.tensor(list(mine), device=self.workers.device)
        common = set(mine).intersection(*self.workers.gather(seen).view(-1, 2).tolist())
        if not common:
            return None
        file, state = mine[max(common)]
        if file != part and self.workers.rank < self.shards:
            os.replace(file, part)
        return state


def sharing(workers: Workers, batch_size: int, stages: int) -> DataParallel:
    """How workers share a training, with a stage each if there are several of both.

    Raises UserError like the two classes.
    """
    if stages > 1 and workers.size > 1:
        return StageParallel(workers, batch_size, stages)
    return DataParallel(workers, batch_size)


@lru_cache(maxsize=8)
def _stage_groups(world: Any, size: int, stages: int) -> list[Any]:
    """The workers of each stage; made once for a process group `world`."""
    return [torch.distributed.new_group(list(range(k, size, stages))) for k in range(stages)]


def check_stage_workers(workers: int, stages: int) -> None:
    """Raise UserError unless there are equally many workers for every stage."""
    if workers % stages:
        raise UserError(
            f"lanes.workers must be a multiple of the {stages} stages where"
            f" denoiser.stages_a_worker is one, got {workers}"
        )
