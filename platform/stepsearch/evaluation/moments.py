"""Means and covariances: of a set of features at once, or of one that comes in batches."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from stepsearch.errors import UserError


class Statistics(NamedTuple):
    """Mean [d] and unbiased covariance [d, d] of a set of features, float64."""

    mean: Tensor
    cov: Tensor


def statistics(features: Tensor) -> Statistics:
    """Mean and covariance of `features` [n, d], computed in float64.

    With n <= d the covariance is singular. The Frechet distance stays defined, but its bias, which
    shrinks like 1/n, is then as large as the distance itself: compare only scores of the same n.
    Raises UserError for fewer than 2 samples.
    """
    features = matrix(features, "statistics")
    return Statistics(features.mean(0), torch.cov(features.T).reshape(2 * features.shape[1:]))


def matrix(features: Tensor, where: str) -> Tensor:
    """`features` in float64. Raises UserError unless they are [n, d] with n >= 2."""
    if features.ndim != 2 or len(features) < 2:
        raise UserError(
            f"{where}: features must be [n, d] with n >= 2, got {list(features.shape)}"
        )
    return features.double()


class Moments:
    """`statistics` of features that come in batches, in float64 and in memory for d^2 numbers.

    Batches are merged by their own means (Chan, Golub & LeVeque 1983, eq. 2.1): sums of raw
    squares would lose the digits of features far from 0.
    """

    def __init__(self) -> None:
        self.count = 0
        self._mean = self._scatter = torch.empty(0)

    def add(self, features: Tensor) -> None:
        """A batch [n, d], on any device; all batches on the same."""
        features, n = features.double(), len(features)
        mean = features.mean(0)
        if not self.count:
            self._mean, self._scatter = torch.zeros_like(mean), torch.zeros_like(mean).diag()
        centred, shift = features - mean, mean - self._mean
        self._scatter.addmm_(centred.T, centred)
        self._scatter.addr_(shift, shift, alpha=self.count * n / (self.count + n))
        self.count += n
        self._mean += shift * (n / self.count)

    def statistics(self) -> Statistics:
        """Of all batches so far, on the CPU. Raises UserError for fewer than 2 samples."""
        if self.count < 2:
            raise UserError(f"statistics: features must be 2 or more, got {self.count}")
        return Statistics(self._mean.cpu(), self._scatter.cpu() / (self.count - 1))
