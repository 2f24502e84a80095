"""Pictures of samples show the pixels that they were given."""

from __future__ import annotations

import numpy as np
import pytest

from stepsearch.pictures import sample_grid


def test_tiny_grey_images_are_magnified_without_smoothing() -> None:
    images = np.where(np.indices((4, 1, 8, 8)).sum(0) % 2, 1.0, -1.0)
    picture = sample_grid(images)
    assert picture.mode == "L"
    assert picture.size == (2 * 64 + 3 * 2, 2 * 64 + 3 * 2)
    assert set(np.unique(np.asarray(picture))) == {0, 255}
    assert picture.getpixel((2, 2)) == 0
    assert picture.getpixel((2 + 8, 2)) == 255


def test_colours_are_kept_and_values_outside_are_clipped() -> None:
    images = np.zeros((3, 3, 64, 64))
    images[0, 0], images[1], images[2, 2] = 5.0, np.nan, -5.0
    picture = sample_grid(images, n=3)
    assert picture.mode == "RGB"
    assert picture.getpixel((10, 10)) == (255, 128, 128)
    assert picture.getpixel((2 + 64 + 10, 10)) == (128, 128, 128)
    assert picture.getpixel((10, 2 + 64 + 10)) == (128, 128, 0)


@pytest.mark.parametrize("shape", [(4, 8, 8), (4, 2, 8, 8), (0, 1, 8, 8)])
def test_images_of_another_shape_are_an_error(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"images must be \[N, 1 or 3, H, W\], got"):
        sample_grid(np.zeros(shape))
