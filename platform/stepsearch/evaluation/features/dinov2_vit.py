"""The vision transformers of DINOv2 (Oquab et al. 2023), patch 14, in plain torch.

Stein et al. 2023 measure FD_DINOv2 with the largest of these, and so does EDM2.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from stepsearch.evaluation.features.network import Seen

SIDE = 224
PATCH = 14
GRID = 37
"""Patches on a side of the images, 518 x 518, that the position embeddings were trained on."""
_OFFSET = 0.1
"""Meta's code adds it to the new grid's side: part of the features, as papers have them."""
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Size(NamedTuple):
    """Of a transformer."""

    width: int
    depth: int
    heads: int


SIZES = {"vits14": Size(384, 12, 6), "vitb14": Size(768, 12, 12), "vitl14": Size(1024, 24, 16)}


class DinoV2(nn.Module):
    """Parameter names are those of the published weights."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        width = size.width
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + GRID**2, width))
        self.mask_token = nn.Parameter(torch.zeros(1, width))  # read in its training only
        self.patch_embed = Patches(width)
        self.blocks = nn.ModuleList(Block(width, size.heads) for _ in range(size.depth))
        self.norm = _norm(width)

    def forward(self, pixels: Tensor) -> Seen:
        """features [n, width] of pixels [n, 3, H, W] with values 0..255, of any size.

        Resized as EDM2 does, which the whole numbers of a resize by Pillow are close to.
        """
        x = functional.interpolate(pixels, (SIDE, SIDE), mode="bicubic", antialias=True)
        mean, std = (x.new_tensor(values).reshape(3, 1, 1) for values in (_MEAN, _STD))
        return Seen(self.features((x / 255 - mean) / std))

    def features(self, images: Tensor) -> Tensor:
        """The class token [n, width] of normalised images [n, 3, 14 h, 14 w]."""
        patches = self.patch_embed(images)
        rows, columns = (side // PATCH for side in images.shape[2:])
        x = torch.cat([self.cls_token.expand(len(images), -1, -1), patches], 1)
        x = x + self.positions(rows, columns)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)[:, 0]  # type: ignore[no-any-return]

    def positions(self, rows: int, columns: int) -> Tensor:
        """Position embeddings [1, 1 + rows columns, width], bicubic between the trained ones.

        Place i of n takes from (i + 1/2) 37 / (n + 0.1) - 1/2, without antialiasing.
        """
        if rows == columns == GRID:
            return self.pos_embed
        trained = self.pos_embed[:, 1:].reshape(1, GRID, GRID, -1).movedim(3, 1)
        scale = [(side + _OFFSET) / GRID for side in (rows, columns)]
        between = functional.interpolate(trained, scale_factor=scale, mode="bicubic")
        return torch.cat([self.pos_embed[:, :1], between.flatten(2).mT], 1)


class Patches(nn.Module):
    """Images [n, 3, 14 h, 14 w] as tokens [n, h w, width]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, PATCH, stride=PATCH)

    def forward(self, images: Tensor) -> Tensor:
        return self.proj(images).flatten(2).mT  # type: ignore[no-any-return]


class Block(nn.Module):
    """x + gamma_1 attention(norm x), then x + gamma_2 mlp(norm x)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.attn, self.ls1 = _norm(width), Attention(width, heads), Scale(width)
        self.norm2, self.mlp, self.ls2 = _norm(width), Perceptron(width), Scale(width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.ls1(self.attn(self.norm1(x)))
        return x + self.ls2(self.mlp(self.norm2(x)))  # type: ignore[no-any-return]


class Attention(nn.Module):
    """softmax(q k^T / sqrt(d)) v in each head of d channels."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        seen = functional.scaled_dot_product_attention(q, k, v)
        return self.proj(seen.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


class Perceptron(nn.Module):
    """Two layers with GELU between, four times as wide inside."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(functional.gelu(self.fc1(x)))  # type: ignore[no-any-return]


class Scale(nn.Module):
    """LayerScale (Touvron et al. 2021): each channel times its gamma."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


def _norm(width: int) -> nn.LayerNorm:
    return nn.LayerNorm(width, eps=1e-6)
