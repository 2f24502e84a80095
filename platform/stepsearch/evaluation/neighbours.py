"""Nearest neighbours in feature space, and the scores that rest on them."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from stepsearch.errors import UserError

# Elements of one block of a distance matrix: 32 MiB in float64.
_BLOCK = 2**22


def distance_blocks(points: Tensor, centres: Tensor) -> Iterator[Tensor]:
    """Squared L2 distances of `points` [n, d] to `centres` [m, d], as consecutive blocks [b, m].

    By |x|^2 + |y|^2 - 2 x.y, whose rounding error is that of |x|^2 in the dtype of the points.
    """
    rows = max(1, _BLOCK // len(centres))
    squares = centres.square().sum(1)
    for block in torch.split(points, rows):
        distances = torch.addmm(squares, block, centres.T, alpha=-2)
        yield distances.add_(block.square().sum(1, keepdim=True)).clamp_min_(0)


def neighbour_distances(points: Tensor, centres: Tensor, k: int = 1) -> Tensor:
    """Squared L2 distance [n] of each point to its k-th nearest centre."""
    blocks = distance_blocks(points, centres)
    if k == 1:
        return torch.cat([block.amin(1) for block in blocks])
    return torch.cat([block.kthvalue(k, dim=1).values for block in blocks])


def ball_radii(features: Tensor, k: int) -> Tensor:
    """Squared radii [n]: each sample's distance to its k-th nearest other sample of the set.

    Raises UserError when the set has no k other samples.
    """
    if len(features) <= k:
        raise UserError(
            f"nearest neighbours: a set must have more than k={k} samples, got {len(features)}"
        )
    # The nearest neighbour inside its own set is the sample itself.
    return neighbour_distances(features, features, k + 1)


def precision_recall(
    real: Tensor, fake: Tensor, k: int = 3, *, real_radii: Tensor | None = None
) -> tuple[float, float]:
    """Improved precision and recall (Kynkaanniemi et al. 2019, eq. 1-2) of features [n, d].

    A set's manifold is the union of the balls around its samples that reach to the k-th nearest
    other sample. Precision is the share of `fake` on the manifold of `real`, recall the share of
    `real` on the manifold of `fake`. Both lie in [0, 1] and depend on the sizes of the sets.
    `real_radii` spares recomputing `ball_radii(real, k)`.
    """
    real, fake = real.double(), fake.double()
    real_radii = ball_radii(real, k) if real_radii is None else real_radii
    fake_radii = ball_radii(fake, k)
    precise, recalled, start = 0, torch.zeros(len(real), dtype=torch.bool), 0
    for block in distance_blocks(fake, real):
        radii = fake_radii[start : start + len(block), None]
        precise += int((block <= real_radii).any(1).sum())
        recalled |= (block <= radii).any(0)
        start += len(block)
    return precise / len(fake), float(recalled.double().mean())


def density_coverage(
    real: Tensor, fake: Tensor, k: int = 5, *, real_radii: Tensor | None = None
) -> tuple[float, float]:
    """Density and coverage (Naeem et al. 2020, eq. 3-4) of features [n, d].

    Density is the mean number of balls of `real` that a sample of `fake` lies in, over k: beside
    precision, it does not take one outlier's huge ball for good samples; 1 on average for equal
    sets, and not bounded by 1. Coverage is the share of `real` whose ball holds a sample of
    `fake`; for equal sets of m and n samples about 1 - (m / (m + n))^k, so it needs many. A ball
    reaches to the k-th nearest other sample of `real`.
    `real_radii` spares recomputing `ball_radii(real, k)`.
    """
    real, fake = real.double(), fake.double()
    radii = ball_radii(real, k) if real_radii is None else real_radii
    inside, nearest = 0, torch.full_like(radii, torch.inf)
    for block in distance_blocks(fake, real):
        inside += int((block <= radii).sum())
        nearest = torch.minimum(nearest, block.amin(0))
    return inside / (k * len(fake)), float((nearest <= radii).double().mean())
