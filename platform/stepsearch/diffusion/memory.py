"""What the training loop asks of the memory allocator."""

from __future__ import annotations

import torch

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
