"""Dropout that can be repeated: torch draws it from the process's global generator."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from stepsearch.diffusion.seeds import generator
from stepsearch.diffusion.workers import Workers


class Dropout:
    """What a step drops depends on the seed, the step, the worker and the slices of its share.

    Nothing else is touched.
    """

    def __init__(self, denoiser: nn.Module, seed: int, workers: Workers) -> None:
        self._drops = any(isinstance(m, nn.Dropout) and m.p > 0 for m in denoiser.modules())
        self._seed, self._workers = seed, workers

    @contextmanager
    def at(self, step: int) -> Iterator[None]:
        """Around the forward and backward passes of a step."""
        if not self._drops:
            yield
            return
        device = self._workers.device
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            draws = generator("dropout", self._seed, step, self._workers.rank)
            torch.manual_seed(draws.initial_seed())
            yield
