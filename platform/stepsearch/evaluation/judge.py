"""The judge: scores generated images against a data set, with numbers that check each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from stepsearch.errors import Diverged, UserError
from stepsearch.evaluation.cache import cache_file, load_or_train
from stepsearch.evaluation.distances import (
    factor,
    frechet_distance,
    frechet_error,
    kid,
)
from stepsearch.evaluation.features.base import Extractor, Observed, kept_rows
from stepsearch.evaluation.features.network import Network, NetworkConfig
from stepsearch.evaluation.judge_config import JudgeConfig, check_labels
from stepsearch.evaluation.manifold import ImageManifold
from stepsearch.evaluation.moments import Statistics, statistics
from stepsearch.evaluation.neighbours import ball_radii, density_coverage, precision_recall
from stepsearch.evaluation.predictions import inception_score
from stepsearch.evaluation.real import load_or_observe, real_file
from stepsearch.pixels import scaled

_CPU = torch.device("cpu")
# Images whose pixels are averaged at once.
_BATCH = 500


@dataclass(frozen=True, eq=False)
class Judge:
    """Everything that stays the same from score to score; made by `prepare`."""

    config: JudgeConfig
    name: str
    extractor: Extractor
    accuracy: float | None
    """Of the classifier on the held-out images, where one was trained."""
    held_out: Tensor
    real: Observed
    """Of the training images."""
    real_factor: Tensor
    real_radii: Tensor
    coverage_radii: Tensor
    pixel_statistics: Statistics
    manifold: ImageManifold
    device: torch.device
    """Where a network looks at images; a classifier of the data set does so on the CPU."""

    @classmethod
    def prepare(
        cls,
        config: JudgeConfig,
        name: str,
        train: Tensor,
        held_out: Tensor,
        labels: Tensor | None,
        held_out_labels: Tensor | None,
        fingerprint: str,
        cache: Path,
        device: torch.device = _CPU,
    ) -> Judge:
        """A judge for the data set `name`, whose images are [n, C, H, W], uint8 or in [-1, 1].

        The classifier is read from `cache` or trained and stored there. All processes whose scores
        are compared must share the file: another processor trains slightly other features. What
        another network sees in the training images is stored there as well, seen on `device`.
        Raises UserError when the features need labels and the data set has none, or weights that
        are not there.
        """
        extractor: Extractor
        accuracy = None
        if isinstance(config.features, NetworkConfig):
            network = extractor = Network(config.features.load())
            file = real_file(config.features.fingerprint(), fingerprint, cache)
            real = load_or_observe(network, train, device, file)
            real = config.features.with_published(real)
        else:
            labels, held_out_labels = check_labels(name, labels, held_out_labels)
            extractor, accuracy = load_or_train(
                config.classifier,
                (train, labels),
                (held_out, held_out_labels),
                cache_file(config.classifier, fingerprint, cache),
            )
            real = extractor.observe(train, device)
        some = _some(train)
        return cls(
            config=config,
            name=name,
            extractor=extractor,
            accuracy=accuracy,
            held_out=held_out,
            real=real,
            real_factor=factor(real.statistics.cov),
            real_radii=ball_radii(real.features.double(), config.neighbours),
            coverage_radii=ball_radii(real.features.double(), config.coverage_neighbours),
            pixel_statistics=statistics(pixel_features(some)),
            manifold=ImageManifold.fit(some, _some(held_out), config.off_manifold_quantile),
            device=device,
        )

    def score(self, images: Tensor) -> dict[str, float]:
        """Scores of generated images [n, C, H, W] against the training images.

        | key | range | best | sees |
        |---|---|---|---|
        | fd_<name>, kid_<name> | >= 0, about >= 0 | 0 | classes, modes; blind to static |
        | precision, recall | [0, 1] | 1 | fidelity and variety, in the same features |
        | pixel_fd | >= 0 | 0 | means and covariances of the pixels |
        | off_manifold | [0, 1] | 1 - quantile | static and other errors that keep the class |
        | density, coverage | >= 0, [0, 1] | 1 | precision and recall, less swayed by outliers |
        | fd_<name>_se | >= 0 | | the standard error of fd_<name> from these images |

        With features of another network the first two and the last have its names; Inception's
        have sfid and is as well. No one of them is safe to optimise alone. Frechet distances are
        biased upwards by about 1/n. Raises Diverged for NaN or infinite images and UserError for a
        wrong shape.
        """
        images = self._checked(images)
        seen = self.extractor.observe(images, self.device)
        if not seen.features.isfinite().all():
            raise Diverged("the images are so far outside [-1, 1] that their features overflow")
        pixels = statistics(pixel_features(images))
        precision, recall = precision_recall(
            self.real.features, seen.features, self.config.neighbours, real_radii=self.real_radii
        )
        density, coverage = density_coverage(
            self.real.features,
            seen.features,
            self.config.coverage_neighbours,
            real_radii=self.coverage_radii,
        )
        names = self.config.features.names(self.name)
        return {
            names.fd: frechet_distance(
                *self.real.statistics, *seen.statistics, factor1=self.real_factor
            ),
            names.kid: self._kid(seen.features),
            "precision": precision,
            "recall": recall,
            "pixel_fd": frechet_distance(*self.pixel_statistics, *pixels),
            "off_manifold": self.manifold.off_manifold(images),
            "density": density,
            "coverage": coverage,
            f"{names.fd}_se": frechet_error(
                self.real.statistics.mean,
                self.real_factor,
                *seen.statistics,
                seen.features,
                len(images),
            ),
            **self._of_inception(seen),
        }

    def distance(self, images: Tensor) -> float:
        """The Frechet distance of `score` alone."""
        seen = self.extractor.observe(self._checked(images), self.device)
        return frechet_distance(*self.real.statistics, *seen.statistics, factor1=self.real_factor)

    def band(self, scores: Mapping[str, float], others: Sequence[float]) -> dict[str, float]:
        """The lowest and the highest Frechet distance over several sets of images, drawn by one
        denoiser from other noise: `score` has seen the first set, `distance` the `others`."""
        fd = self.config.features.names(self.name).fd
        distances = scores[fd], *others
        return {f"{fd}_low": min(distances), f"{fd}_high": max(distances)}

    def reference(self) -> dict[str, float]:
        """The scores of held-out real images (at most `samples`): what a perfect sampler reaches.

        With fewer held-out images than `samples`, the Frechet distances are biased further up than
        those of generated images, which may then score below the reference.
        """
        generator = torch.Generator().manual_seed(self.config.seed)
        order = torch.randperm(len(self.held_out), generator=generator)
        return self.score(scaled(self.held_out[order[: self.config.samples]]))

    def _kid(self, features: Tensor) -> float:
        config = self.config
        return kid(
            self.real.features,
            features,
            subsets=config.kid_subsets,
            subset_size=config.kid_subset_size,
            seed=config.seed,
        )

    def _of_inception(self, seen: Observed) -> dict[str, float]:
        """sFID and Inception Score, where the network gives what they are made of."""
        names, scores = self.config.features.names(self.name), {}
        if names.spatial_fd and self.real.spatial and seen.spatial:
            scores[names.spatial_fd] = frechet_distance(*self.real.spatial, *seen.spatial)
        if names.inception_score and seen.logits is not None:
            scores[names.inception_score] = inception_score(seen.logits)
        return scores

    def _checked(self, images: Tensor) -> Tensor:
        shape = list(self.held_out.shape[1:])
        if list(images.shape[1:]) != shape or not images.is_floating_point():
            raise UserError(
                f"images must be floating-point [n, {', '.join(map(str, shape))}], "
                f"got {images.dtype} {list(images.shape)}"
            )
        if len(images) <= self.config.neighbours:
            raise UserError(
                f"images must be more than neighbours ({self.config.neighbours}), "
                f"got {len(images)}"
            )
        images = images.detach().to("cpu", torch.float32)
        if not images.isfinite().all():
            bad = int((~images.flatten(1).isfinite().all(1)).sum())
            raise Diverged(f"{bad} of {len(images)} images have NaN or infinite pixels")
        return images


def _some(images: Tensor) -> Tensor:
    """Those that stand for all of a large set, in [-1, 1]."""
    return scaled(images[kept_rows(len(images))])


def pixel_features(images: Tensor) -> Tensor:
    """Images [n, C, H, W], uint8 or in [-1, 1], as vectors [n, d] of at most 16 x 16 averages.

    A covariance of 64 x 64 x 3 pixels would have 12288^2 entries and no set of samples to fill it.
    Images of up to 16 x 16 pixels stay exactly as they are. float64.
    """
    height, width = images.shape[2:]
    size = min(height, 16), min(width, 16)
    batches = torch.split(images, _BATCH)
    return torch.cat(
        [
            functional.adaptive_avg_pool2d(scaled(batch).double(), size).flatten(1)
            for batch in batches
        ]
    )
