"""What a judge is asked for, and what its scores are called."""

from __future__ import annotations

import torch
from pydantic import Field, model_validator
from torch import Tensor

from stepsearch.config import Config
from stepsearch.errors import UserError
from stepsearch.evaluation.classifier import ClassifierConfig
from stepsearch.evaluation.features import AnyFeatures, TrainedFeaturesConfig


class JudgeConfig(Config):
    """How samples are scored. Scores compare only at the same configuration and sample count."""

    features: AnyFeatures = Field(
        TrainedFeaturesConfig(), description="in which distances and neighbours are taken"
    )
    samples: int = Field(default=1000, ge=2, description="images to generate for one score")
    sampling_seeds: int = Field(
        default=1, ge=1, le=32, description="from which a trial's last images are drawn"
    )
    """The first one, which all reports have, gives the scores; all of them the distance's band."""
    neighbours: int = Field(default=3, ge=1, description="k of precision and recall")
    coverage_neighbours: int = Field(default=5, ge=1, description="k of density and coverage")
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
    classifier: ClassifierConfig = Field(
        ClassifierConfig(), description="trained on the data set, for features classifier"
    )

    @model_validator(mode="after")
    def _classifier_is_used(self) -> JudgeConfig:
        if self.features.kind != "classifier" and self.classifier != ClassifierConfig():
            raise ValueError(
                "classifier must be left out unless features.kind is classifier, "
                f"got features.kind {self.features.kind!r}"
            )
        return self

    @model_validator(mode="after")
    def _enough_samples(self) -> JudgeConfig:
        if self.samples <= self.neighbours:
            raise ValueError(
                f"samples must be more than neighbours ({self.neighbours}), got {self.samples}"
            )
        return self

    def resolved(self) -> JudgeConfig:
        """With the paths written out that an environment variable holds."""
        return self.model_copy(update={"features": self.features.resolved()})


def score_names(config: JudgeConfig, name: str) -> tuple[str, ...]:
    """The keys of `Judge.score` and `Judge.band` for the data set `name`."""
    own = config.features.names(name)
    optional = (own.spatial_fd, own.inception_score)
    return (
        *(own.fd, own.kid, "precision", "recall", "pixel_fd", "off_manifold"),
        *("density", "coverage", f"{own.fd}_se"),
        *(key for key in optional if key),
        *(f"{own.fd}_{end}" for end in ("low", "high") if config.sampling_seeds > 1),
    )


def better_when_higher(config: JudgeConfig, name: str) -> frozenset[str]:
    """Those of `score_names` of which a perfect sampler has much."""
    score = config.features.names(name).inception_score
    return frozenset(("precision", "recall", "density", "coverage", *([score] if score else ())))


def check_labels(
    name: str, labels: Tensor | None, held_out: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Both labels, which the judge's classifier needs. Raises UserError if there are none."""
    if labels is None or held_out is None:
        raise UserError(
            f"data set {name!r} has no labels, which the judge's classifier learns from: "
            "sort its images into one folder a class, or take judge.features of another network"
        )
    if len(torch.unique(labels)) < 2:
        raise UserError(
            f"data set {name!r} must have at least 2 classes for the judge's classifier, got 1"
        )
    return labels, held_out
