"""Pixels and latents as points, and data that have no stages."""

import pytest
import torch
from torch import Tensor

from stepsearch.diffusion.stages import latents, pixels
from stepsearch.errors import UserError

CPU = torch.device("cpu")


def test_pixels_are_the_same_points_as_bytes_and_as_floats() -> None:
    images = torch.randint(0, 256, (5, 3, 4, 4), generator=torch.Generator().manual_seed(0))
    raw, floats = pixels(images.to(torch.uint8)), pixels(images / 127.5 - 1)
    unit = (images / 255).flatten(1)
    for points in (raw, floats):
        centred = points.centred(points.rows, CPU)
        torch.testing.assert_close(centred, unit - unit.mean(0), atol=1e-6, rtol=0)
        assert points.span.unique().tolist() == [1]
    signed = pixels(images.to(torch.uint8), signed=True)
    torch.testing.assert_close(
        signed.centred(signed.rows, CPU), 2 * (unit - unit.mean(0)), atol=1e-6, rtol=0
    )
    assert signed.span.unique().tolist() == [2]


def test_latents_count_a_change_against_the_range_of_their_channel() -> None:
    values = torch.zeros(3, 2, 2, 2)
    values[1, 0, 0, 0], values[2, 1, 1, 1] = 4, -0.5
    points = latents(values.half())
    assert points.span.tolist() == [4] * 4 + [0.5] * 4
    assert points.centred(points.rows, CPU)[1, 0] == pytest.approx(4 - 4 / 3, rel=1e-6)


def test_the_rows_are_not_copied() -> None:
    images = torch.rand(10, 3, 8, 8)
    assert pixels(images).rows.data_ptr() == images.data_ptr()


NAN = torch.ones(3, 4)
NAN[1, 2] = torch.nan


@pytest.mark.parametrize(
    ("images", "line"),
    [
        (torch.zeros(1, 1, 8, 8), "the data set must hold at least 2 images, got 1"),
        (torch.zeros(0, 1, 8, 8), r"the data set must have shape \[N, ...\], got \(0, 1, 8, 8\)"),
        (torch.zeros(8), r"the data set must have shape \[N, ...\], got \(8,\)"),
        (torch.full((9, 1, 8, 8), 0.5),
         "the data set must hold at least 2 different images, got 9 identical ones"),
        (NAN, "the data set must hold finite numbers, got NaN or infinite ones"),
    ],
)  # fmt: skip
def test_data_without_stages_are_refused(images: Tensor, line: str) -> None:
    for points in (pixels, latents):
        with pytest.raises(UserError, match=f"^{line}$"):
            points(images)


def test_pixels_out_of_range_are_refused() -> None:
    with pytest.raises(
        UserError, match=r"^pixels must be uint8 or in -1..1, got values in 0..16$"
    ):
        pixels(torch.tensor([[0.0], [16.0]]))
