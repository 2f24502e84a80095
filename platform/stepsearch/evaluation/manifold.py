"""The off-manifold rate: the share of samples too far from every training image."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from stepsearch.evaluation.neighbours import neighbour_distances


@dataclass(frozen=True, eq=False)
class ImageManifold:
    """The training images [n, d] in pixel space and the distance at which a sample leaves them.

    Guards against what a classifier's features cannot see: static and other errors that keep the
    class. It does not see blur or missing modes, which lie close to the training images. Larger
    images hide more static, because real ones lie further apart in more dimensions.
    """

    train: Tensor
    threshold: float

    @classmethod
    def fit(cls, train: Tensor, held_out: Tensor, quantile: float) -> ImageManifold:
        """`threshold` is the given quantile of the held-out real images' own distances."""
        distances = neighbour_distances(held_out.flatten(1), train.flatten(1)).sqrt()
        return cls(train.flatten(1), float(torch.quantile(distances.double(), quantile)))

    def off_manifold(self, images: Tensor) -> float:
        """Share of `images` [n, C, H, W] farther (L2) than the threshold from any training image.

        About 1 - quantile for held-out real images and 1 for noise. Costs 2 n n_train C H W
        floating-point operations, in blocks of bounded memory.
        """
        distances = neighbour_distances(images.flatten(1), self.train).sqrt()
        return float((distances > self.threshold).double().mean())
