"""Where the process that drives a search does what takes a network."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

import torch

logger = logging.getLogger(__name__)
Found = TypeVar("Found")


def on_the_fastest(
    work: Callable[[torch.device], Found], what: str, *, forget: Callable[[], None]
) -> Found:
    """What `work` finds on a GPU, if this process sees one with room, or else on the CPU.

    The GPU is the trials': `forget` drops what was kept there. A warning says `what` is slower.
    """
    cpu = torch.device("cpu")
    if not torch.cuda.is_available():
        return work(cpu)
    try:
        return work(torch.device("cuda"))
    except RuntimeError as error:  # it is full of trials, or takes one process only
        logger.warning("%s on the CPU: %s", what, str(error).splitlines()[0])
        return work(cpu)
    finally:
        forget()
        torch.cuda.empty_cache()
