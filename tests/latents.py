"""Small autoencoders, and pictures for them: what tests of several folders encode."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_digits


def write_vae(folder: Path, *, seed: int = 0, **changes: Any) -> Path:
    """An AutoencoderKL with new weights, of grey pictures, whose latents are half as large."""
    from diffusers import AutoencoderKL

    settings: dict[str, Any] = {
        "in_channels": 1,
        "out_channels": 1,
        "block_out_channels": (8, 16),
        "down_block_types": ("DownEncoderBlock2D",) * 2,
        "up_block_types": ("UpDecoderBlock2D",) * 2,
        "norm_num_groups": 4,
        "scaling_factor": 2.0,
        "shift_factor": 0.1,
    }
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        AutoencoderKL(**settings | changes).save_pretrained(folder)
    return folder


def write_digits(file: Path, n: int = 300) -> Path:
    """scikit-learn's first n digits as an .npz, with their labels."""
    digits = load_digits()
    pixels = (digits.images[:n] * 15.9375).astype(np.uint8)
    np.savez(file, images=pixels, labels=digits.target[:n])
    return file
