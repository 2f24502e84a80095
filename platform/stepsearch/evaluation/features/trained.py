"""The features of a classifier that is trained on the data set itself."""

from __future__ import annotations

from typing import ClassVar, Literal

from stepsearch.evaluation.features.base import FeaturesConfig, ScoreNames


class TrainedFeaturesConfig(FeaturesConfig):
    """The penultimate layer of the classifier that `judge.classifier` describes; needs labels."""

    kind: Literal["classifier"] = "classifier"
    needs_labels: ClassVar[bool] = True

    def names(self, data: str) -> ScoreNames:
        """fd_<data>, kid_<data>"""
        return ScoreNames(f"fd_{data}", f"kid_{data}")
