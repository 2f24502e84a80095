"""Features by name: a config each, which says what their scores are called."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from stepsearch.evaluation.features.base import FeaturesConfig
from stepsearch.evaluation.features.efficientnet_lite0 import EfficientNetLite0Config
from stepsearch.evaluation.features.inception import InceptionConfig
from stepsearch.evaluation.features.trained import TrainedFeaturesConfig

FEATURES: dict[str, type[FeaturesConfig]] = {
    "classifier": TrainedFeaturesConfig,
    "inception": InceptionConfig,
    "efficientnet_lite0": EfficientNetLite0Config,
}

AnyFeatures = Annotated[
    TrainedFeaturesConfig | InceptionConfig | EfficientNetLite0Config, Field(discriminator="kind")
]

__all__ = [
    "FEATURES",
    "AnyFeatures",
    "EfficientNetLite0Config",
    "FeaturesConfig",
    "InceptionConfig",
    "TrainedFeaturesConfig",
]
