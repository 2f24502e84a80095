"""Pixels as bytes, and as the numbers that networks see."""

from __future__ import annotations

import torch
from torch import Tensor


def scaled(images: Tensor) -> Tensor:
    """Images as a denoiser sees them, float32: a uint8 x becomes x / 127.5 - 1, others are in
    [-1, 1] already, and latents, which are float16, are of their own scale."""
    if images.dtype == torch.uint8:
        return images.float().div_(127.5).sub_(1)
    return images.float() if images.dtype == torch.float16 else images


def clipped(images: Tensor) -> Tensor:
    """Images that were drawn, in [-1, 1]."""
    return images.clamp(-1, 1)
