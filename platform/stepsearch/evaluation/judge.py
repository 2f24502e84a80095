"""The judge: scores generated images against a data set, with numbers that check each other."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn import functional

from stepsearch.config import Config
from stepsearch.errors import Diverged, UserError
from stepsearch.evaluation.cache import cache_file, load_or_train
from stepsearch.evaluation.classifier import Classifier, ClassifierConfig
from stepsearch.evaluation.distances import Statistics, frechet_distance, kid, statistics
from stepsearch.evaluation.manifold import ImageManifold
from stepsearch.evaluation.neighbours import ball_radii, precision_recall


class JudgeConfig(Config):
    """How samples are scored. Scores compare only at the same configuration and sample count."""

    samples: int = Field(default=1000, ge=2, description="images to generate for one score")
    neighbours: int = Field(default=3, ge=1, description="k of precision and recall")
    kid_subsets: int = Field(default=4, ge=1, description="subsets over which KID is averaged")
    kid_subset_size: int = Field(
        default=2000, ge=2, description="images of a KID subset; smaller sets are used whole"
    )
    off_manifold_quantile: float = Field(
        default=0.99,
        gt=0,
        lt=1,
        description="of held-out images' distances; beyond it is off-manifold",
    )
    seed: int = Field(default=0, ge=0, description="of KID's subsets and the reference images")
    classifier: ClassifierConfig = ClassifierConfig()

    @model_validator(mode="after")
    def _enough_samples(self) -> JudgeConfig:
        if self.samples <= self.neighbours:
            raise ValueError(
                f"samples must be more than neighbours ({self.neighbours}), got {self.samples}"
            )
        return self


@dataclass(frozen=True, eq=False)
class Judge:
    """Everything that stays the same from score to score; made by `prepare`."""

    config: JudgeConfig
    name: str
    classifier: Classifier
    accuracy: float
    """The classifier's accuracy on the held-out images."""
    held_out: Tensor
    train_features: Tensor
    train_radii: Tensor
    feature_statistics: Statistics
    pixel_statistics: Statistics
    manifold: ImageManifold

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
    ) -> Judge:
        """A judge for the data set `name`, whose images are [n, C, H, W] in [-1, 1].

        The classifier is read from `cache` or trained and stored there. All processes whose scores
        are compared must share the file: another processor trains slightly other features.
        Raises UserError when the data set has no labels.
        """
        labels, held_out_labels = check_labels(name, labels, held_out_labels)
        classifier, accuracy = load_or_train(
            config.classifier,
            (train, labels),
            (held_out, held_out_labels),
            cache_file(config.classifier, fingerprint, cache),
        )
        features = classifier.features(train)
        return cls(
            config=config,
            name=name,
            classifier=classifier,
            accuracy=accuracy,
            held_out=held_out,
            train_features=features,
            train_radii=ball_radii(features, config.neighbours),
            feature_statistics=statistics(features),
            pixel_statistics=statistics(pixel_features(train)),
            manifold=ImageManifold.fit(train, held_out, config.off_manifold_quantile),
        )

    def score(self, images: Tensor) -> dict[str, float]:
        """Scores of generated images [n, C, H, W] against the training images.

        | key | range | best | sees |
        |---|---|---|---|
        | fd_<name>, kid_<name> | >= 0, about >= 0 | 0 | classes, modes; blind to static |
        | precision, recall | [0, 1] | 1 | fidelity and coverage, in the same features |
        | pixel_fd | >= 0 | 0 | means and covariances of the pixels |
        | off_manifold | [0, 1] | 1 - quantile | static and other errors that keep the class |

        No one of them is safe to optimise alone. Frechet distances are biased upwards by about
        1/n. Raises Diverged for NaN or infinite images and UserError for a wrong shape.
        """
        images = self._checked(images)
        features = self.classifier.features(images)
        if not features.isfinite().all():
            raise Diverged("the images are so far outside [-1, 1] that their features overflow")
        precision, recall = precision_recall(
            self.train_features, features, self.config.neighbours, real_radii=self.train_radii
        )
        return {
            f"fd_{self.name}": frechet_distance(*self.feature_statistics, *statistics(features)),
            f"kid_{self.name}": self._kid(features),
            "precision": precision,
            "recall": recall,
            "pixel_fd": frechet_distance(
                *self.pixel_statistics, *statistics(pixel_features(images))
            ),
            "off_manifold": self.manifold.off_manifold(images),
        }

    def reference(self) -> dict[str, float]:
        """The scores of held-out real images (at most `samples`): what a perfect sampler reaches.

        With fewer held-out images than `samples`, the Frechet distances are biased further up than
        those of generated images, which may then score below the reference.
        """
        generator = torch.Generator().manual_seed(self.config.seed)
        order = torch.randperm(len(self.held_out), generator=generator)
        return self.score(self.held_out[order[: self.config.samples]])

    def _kid(self, features: Tensor) -> float:
        config = self.config
        return kid(
            self.train_features,
            features,
            subsets=config.kid_subsets,
            subset_size=config.kid_subset_size,
            seed=config.seed,
        )

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


def score_names(name: str) -> tuple[str, ...]:
    """The keys of `Judge.score` for the data set `name`."""
    own = (f"fd_{name}", f"kid_{name}")
    return (*own, "precision", "recall", "pixel_fd", "off_manifold")


def pixel_features(images: Tensor) -> Tensor:
    """Images [n, C, H, W] as vectors [n, d], averaged down to at most 16 x 16 pixels.

    A covariance of 64 x 64 x 3 pixels would have 12288^2 entries and no set of samples to fill it.
    Images of up to 16 x 16 pixels stay exactly as they are. float64.
    """
    height, width = images.shape[2:]
    size = min(height, 16), min(width, 16)
    return functional.adaptive_avg_pool2d(images.double(), size).flatten(1)


def check_labels(
    name: str, labels: Tensor | None, held_out: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Both labels, which the judge's classifier needs. Raises UserError if there are none."""
    if labels is None or held_out is None:
        raise UserError(
            f"data set {name!r} has no labels, which the judge's classifier learns from: "
            "sort its images into one folder a class"
        )
    if len(torch.unique(labels)) < 2:
        raise UserError(
            f"data set {name!r} must have at least 2 classes for the judge's classifier, got 1"
        )
    return labels, held_out
