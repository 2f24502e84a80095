"""Weights from files: those that a network was published with, read without running code."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from stepsearch.errors import UserError


class Published(NamedTuple):
    """A file that everybody who measures with a network has."""

    what: str
    sha256: str
    most_bytes: int


def read_published(file: Path, published: Published, field: str) -> bytes:
    """The content of `file`, which `field` names. Raises UserError unless it is published."""
    try:
        with file.open("rb") as opened:
            content = opened.read(published.most_bytes)
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"{field} must be {published.what}, got {str(file)!r}: {reason}") from None
    found = hashlib.sha256(content).hexdigest()
    if found != published.sha256:
        raise UserError(
            f"{field} must be {published.what}, with SHA-256 {published.sha256[:8]}..., "
            f"got another file ({found[:8]}...): {str(file)!r}"
        )
    return content


def load_published(
    build: Callable[[], nn.Module], file: Path, published: Published, field: str
) -> nn.Module:
    """The network that `build` makes, with the weights in a published file, in eval mode.

    Raises UserError for any other file.
    """
    content = io.BytesIO(read_published(file, published, field))
    try:
        state = torch.load(content, map_location="cpu", weights_only=True)
    except Exception as error:  # of zipfile, pickle and torch
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{field} is unreadable: {reason}, got {str(file)!r}") from None
    with torch.device("meta"):  # new weights would take seconds, and random numbers
        network = build()
    return fill(network.to_empty(device="cpu"), state, field)


def fill(network: nn.Module, state: Mapping[str, Tensor], field: str) -> nn.Module:
    """`network` with these weights, in eval mode; nothing of it is trained.

    Raises UserError unless their names and shapes are exactly the network's. Batch normalisation's
    counters may be missing: only training reads them.
    """
    wanted = network.state_dict()
    filled = {name: torch.zeros(()) for name in wanted if name.endswith("num_batches_tracked")}
    filled |= state
    for name, tensor in wanted.items():
        found = list(filled[name].shape) if name in filled else "none"
        if found != list(tensor.shape):
            raise UserError(
                f"{field} must be weights of {type(network).__name__}, whose {name} is "
                f"{list(tensor.shape)}, got {found}"
            )
    if others := sorted(filled.keys() - wanted.keys()):
        raise UserError(
            f"{field} must be weights of {type(network).__name__}, which has no {others[0]}"
        )
    network.load_state_dict(filled)
    return network.eval().requires_grad_(False)
