"""Distances between two sets of feature vectors: Frechet, kernel (KID) and energy distance."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from stepsearch.errors import UserError
from stepsearch.evaluation.moments import matrix

# Samples whose influence on a distance is looked at.
_ENOUGH = 2000


def frechet_distance(
    mean1: Tensor, cov1: Tensor, mean2: Tensor, cov2: Tensor, *, factor1: Tensor | None = None
) -> float:
    """Squared Frechet (2-Wasserstein) distance of two Gaussians; 0 when they are equal.

        |mu_1 - mu_2|^2 + Tr(S_1 + S_2 - 2 (S_1 S_2)^(1/2))        (Heusel et al. 2017, eq. 6)

    Tr (S_1 S_2)^(1/2) is the sum of the singular values of A_1^T A_2 with S = A A^T: real at any
    rank, and with errors of the order of the rounding instead of its square root. `factor1` spares
    recomputing `factor(cov1)`.
    """
    if cov1.shape != cov2.shape:
        raise UserError(
            "frechet_distance: both sets must have the same number of features, "
            f"got {len(cov1)} and {len(cov2)}"
        )
    factor1 = factor(cov1) if factor1 is None else factor1
    cross = torch.linalg.svdvals(factor1.T @ factor(cov2)).sum()
    distance = (mean1 - mean2).square().sum() + cov1.trace() + cov2.trace() - 2 * cross
    return max(0.0, float(distance))


def factor(cov: Tensor) -> Tensor:
    """A [d, d] with S = A A^T, of a covariance S of any rank; Cholesky's where there is one."""
    lower: Tensor
    lower, failed = torch.linalg.cholesky_ex(cov)
    if not failed:
        return lower
    values, vectors = torch.linalg.eigh(cov)
    scaled: Tensor = vectors * values.clamp_min(0).sqrt()
    return scaled


def frechet_error(
    mean1: Tensor, factor1: Tensor, mean2: Tensor, cov2: Tensor, features: Tensor, n: int
) -> float:
    """Standard error of the Frechet distance over sets like the second one, of n samples.

    The infinitesimal jackknife (Efron 1982): how far each sample x moves the distance,

        psi(x) = 2 (mu_2 - mu_1).(x - mu_2) + (x - mu_2)^T (I - A M^(-1/2) A^T) (x - mu_2)

    with S_1 = A A^T and M = A^T S_2 A, and sd(psi) / sqrt(n). `features` [m, d] are the second
    set's, or some of them; 2000 say it to some per cent. It knows nothing of the bias, of the
    first set's error, or of another training: near the floor it is somewhat too large.
    """
    values, vectors = torch.linalg.eigh(factor1.T @ cov2 @ factor1)
    inverse = torch.where(values > 1e-10 * values[-1], values.clamp_min(1e-300).rsqrt(), 0)
    outwards = factor1 @ (vectors * inverse) @ vectors.T @ factor1.T
    x = matrix(features[:_ENOUGH], "frechet_error") - mean2
    psi = 2 * x @ (mean2 - mean1) + x.square().sum(1) - ((x @ outwards) * x).sum(1)
    return float(psi.std()) / math.sqrt(n)


def kid(
    real: Tensor, fake: Tensor, *, subsets: int = 4, subset_size: int = 2000, seed: int = 0
) -> float:
    """Kernel inception distance (Binkowski et al. 2018, section 4) of features [m, d] and [n, d].

    The mean of the unbiased MMD^2 over `subsets` random pairs of subsets. A set that is no larger
    than `subset_size` is used whole; if both are, one pass gives the exact estimate.
    Unbiased, so a little below 0 at times. Raises UserError for fewer than 2 samples.
    """
    real, fake = matrix(real, "kid"), matrix(fake, "kid")
    if real.shape[1] != fake.shape[1]:
        raise UserError(
            "kid: both sets must have the same number of features, "
            f"got {real.shape[1]} and {fake.shape[1]}"
        )
    if max(len(real), len(fake)) <= subset_size:
        return _mmd2(real, fake)
    generator = torch.Generator().manual_seed(seed)
    draws = [
        _mmd2(_subset(real, subset_size, generator), _subset(fake, subset_size, generator))
        for _ in range(subsets)
    ]
    return sum(draws) / subsets


def _subset(features: Tensor, size: int, generator: torch.Generator) -> Tensor:
    return features[torch.randperm(len(features), generator=generator)[:size]]


def _mmd2(x: Tensor, y: Tensor) -> float:
    """Unbiased MMD^2: mean k(x, x') + mean k(y, y') - 2 mean k(x, y) over x != x', y != y'."""
    between = _cubes(torch.addmm(torch.ones((), dtype=x.dtype), x, y.T, alpha=1 / x.shape[1]))
    return float(_mean_within(x) + _mean_within(y) - 2 * between / (len(x) * len(y)))


def _mean_within(x: Tensor) -> Tensor:
    gram = torch.addmm(torch.ones((), dtype=x.dtype), x, x.T, alpha=1 / x.shape[1])
    return (_cubes(gram) - gram.diagonal().pow(3).sum()) / (len(x) * (len(x) - 1))


def _cubes(gram: Tensor) -> Tensor:
    """The sum of k(x, y) = (x . y / d + 1)^3 over a matrix of (x . y / d + 1)."""
    return torch.dot(gram.square().flatten(), gram.flatten())


def energy_distance(real: Tensor, fake: Tensor) -> Tensor:
    """2 E|x - y| - E|x - x'| - E|y - y'| (Szekely & Rizzo 2013) of [m, d] and [n, d], a scalar.

    0 only for equal distributions. Unbiased, so a little below 0 at times; differentiable. Raises
    UserError for fewer than 2 samples.
    """
    real, fake = matrix(real, "energy_distance"), matrix(fake, "energy_distance")
    within = [torch.cdist(x, x).sum() / (len(x) * (len(x) - 1)) for x in (real, fake)]
    return 2 * torch.cdist(real, fake).mean() - within[0] - within[1]
