"""Independent random streams from one seed."""

from __future__ import annotations

import hashlib

import torch


def generator(purpose: str, *key: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator whose stream depends on nothing but `purpose` and `key`.

    `generator("order", seed, epoch)` and `generator("order", seed, epoch + 1)` are unrelated
    streams, which `seed + epoch` as a seed would not promise: seed 0's epoch 1 and seed 1's
    epoch 0 would be the same stream.
    """
    digest = hashlib.blake2b(repr((purpose, *key)).encode(), digest_size=8).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest, "big"))
