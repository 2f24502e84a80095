"""A picture as a denoiser sees it: upright, opaque, a centred square of one size."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

_ORIENTATION = 0x0112
_TURNS = dict(
    enumerate(
        (
            Image.Transpose.FLIP_LEFT_RIGHT,
            Image.Transpose.ROTATE_180,
            Image.Transpose.FLIP_TOP_BOTTOM,
            Image.Transpose.TRANSPOSE,
            Image.Transpose.ROTATE_270,
            Image.Transpose.TRANSVERSE,
            Image.Transpose.ROTATE_90,
        ),
        start=2,
    )
)
"""What undoes each orientation of EXIF; Pillow's own way writes all tags anew, damaged or not."""


def prepared(picture: Image.Image, size: int, channels: int) -> npt.NDArray[np.uint8]:
    """uint8 [channels, size, size]: the largest centred square, resized by Lanczos's filter.

    The filter is as wide as the reduction asks for, so that nothing aliases.
    """
    picture.load()  # by which Pillow turns a TIFF itself
    turn = _TURNS.get(picture.getexif().get(_ORIENTATION, 1))
    upright = picture if turn is None else picture.transpose(turn)
    colour = _opaque(upright).convert("L" if channels == 1 else "RGB")
    square = ImageOps.fit(colour, (size, size), method=Image.Resampling.LANCZOS)
    return np.asarray(square, dtype=np.uint8).reshape(size, size, channels).transpose(2, 0, 1)


def _opaque(image: Image.Image) -> Image.Image:
    """Without its two traps: 16-bit grey (clipped by `convert`) and transparency (over white)."""
    if image.mode == "F":
        raise ValueError("pixels are floats of an unknown range")
    if image.mode.startswith("I"):
        values = np.asarray(image)
        if not 0 <= values.min() <= values.max() < 2**16:
            raise ValueError("pixels are beyond 16 bits")
        return Image.fromarray((values // 256).astype(np.uint8))
    if not image.has_transparency_data:
        return image
    visible = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", visible.size, "white"), visible)
