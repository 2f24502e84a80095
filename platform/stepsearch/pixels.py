"""Pixels as bytes, and as the numbers that networks see."""

from __future__ import annotations

import torch
from torch import Tensor


def scaled(images: Tensor) -> Tensor:
    """Images in [-1, 1], float32: a uint8 x becomes x / 127.5 - 1, others are so already."""
    return images.float().div_(127.5).sub_(1) if images.dtype == torch.uint8 else images
