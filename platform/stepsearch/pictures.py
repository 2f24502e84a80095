"""Pictures of samples: apart from the figures, since a lane draws them without matplotlib."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image

TILE = 64  # pixels; smaller images are magnified to about this size


def sample_grid(images: npt.ArrayLike, n: int = 64) -> Image.Image:
    """The first n images [N, C, H, W] in [-1, 1] as one picture; C is 1 or 3.

    Tiny images are magnified without smoothing, so that each pixel stays visible.
    """
    tiles = np.asarray(images, dtype=np.float64)[:n]
    if tiles.ndim != 4 or tiles.shape[1] not in (1, 3) or len(tiles) == 0:
        raise ValueError(f"images must be [N, 1 or 3, H, W], got {list(np.shape(images))}")
    pixels = (255 * np.clip(np.nan_to_num(tiles) / 2 + 0.5, 0, 1)).round().astype(np.uint8)
    zoom = max(1, round(TILE / pixels.shape[-1]))
    pixels = pixels.repeat(zoom, axis=2).repeat(zoom, axis=3)
    return _mosaic(pixels, columns=int(np.ceil(np.sqrt(len(pixels)))), gap=2)


def _mosaic(tiles: npt.NDArray[np.uint8], columns: int, gap: int) -> Image.Image:
    count, channels, height, width = tiles.shape
    rows = -(-count // columns)
    shape = (rows * (height + gap) + gap, columns * (width + gap) + gap, channels)
    picture = np.full(shape, 255, dtype=np.uint8)
    for index, tile in enumerate(tiles):
        row, column = divmod(index, columns)
        y, x = gap + row * (height + gap), gap + column * (width + gap)
        picture[y : y + height, x : x + width] = tile.transpose(1, 2, 0)
    return Image.fromarray(picture.squeeze(2) if channels == 1 else picture)


def beside(left: Image.Image, right: Image.Image, gap: int = 16) -> Image.Image:
    """Two pictures of one height as one."""
    picture = Image.new(left.mode, (left.width + gap + right.width, left.height), "white")
    picture.paste(left, (0, 0))
    picture.paste(right, (left.width + gap, 0))
    return picture
