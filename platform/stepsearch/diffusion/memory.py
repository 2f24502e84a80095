"""What a training asks of the memory, and what to do where there is too little of it."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from stepsearch.diffusion.workers import Workers
from stepsearch.errors import OutOfMemory

_LARGEST = 31 * 2**20
"""Bytes; glibc adapts to blocks of less than 32 MiB."""


def reuse_freed_memory() -> None:
    """Make glibc keep the memory that one training step frees for the next step.

    glibc gives the free end of the heap back to the system when it is longer than twice the
    largest block that was ever unmapped. A small network's activations are small blocks with a
    large sum, so a step may give its memory back and the next fetch it again page by page: up to
    2000 page faults, a tenth of the step, by the chance of what lies at the heap's end. One large
    block, freed at once and never written to, raises that limit for the rest of the process.
    Other allocators take no notice.
    """
    torch.empty(_LARGEST, dtype=torch.uint8)


class Slices:
    """In how many slices a trial computes its batches; more after each time the memory was short.

    Kept in the trial's folder, since the process that runs out of memory is replaced.
    """

    def __init__(self, folder: Path, accumulation: int | None, share: int) -> None:
        """`share` is a worker's part of a batch, in images."""
        self._path, self._share = folder / "slices.txt", share
        self._may_grow = accumulation is None
        self.count = min(accumulation or 1, share)
        if self._may_grow and self._path.exists():
            self.count = int(self._path.read_text())

    @contextmanager
    def fitting(self, workers: Workers, *, in_slices: bool = True) -> Iterator[None]:
        """Raises OutOfMemory for whatever torch or numpy raise when the memory is spent.

        Smaller slices are tried for work that is done `in_slices`, as a training's.
        """
        try:
            yield
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            images = -(-self._share // self.count)
            doing = f"with {images} images at a time" if in_slices else "in an evaluation"
            message = f"out of memory: {_peak(workers.device)} {doing}"
            again = in_slices and self._may_grow and self.count * 2 <= self._share
            if again:
                scratch = self._path.with_name(f"slices.{workers.rank}.tmp")
                scratch.write_text(str(self.count * 2))
                scratch.replace(self._path)
            raise OutOfMemory(message, again=again) from error


def is_out_of_memory(error: Exception) -> bool:
    """CUDA has an error of its own; torch's CPU allocator says it in words, oneDNN in others."""
    kinds = (torch.OutOfMemoryError, MemoryError)
    words = str(error)
    said = "can't allocate memory" in words or words == "could not create a primitive"
    return isinstance(error, kinds) or said


def _peak(device: torch.device) -> str:
    """The most memory that this process has used, and what there is of it."""
    if device.type == "cuda":
        used = torch.cuda.max_memory_allocated(device)
        total = torch.cuda.get_device_properties(device).total_memory
        return f"{used / 2**30:.2f} of {total / 2**30:.2f} GiB"
    return f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB"
