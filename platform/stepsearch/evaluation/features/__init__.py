"""Features by name: a config each, which says what their scores are called."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from stepsearch.evaluation.features.base import FeaturesConfig
from stepsearch.evaluation.features.dinov2 import DinoV2Config
from stepsearch.evaluation.features.efficientnet_lite0 import EfficientNetLite0Config
from stepsearch.evaluation.features.inception import InceptionConfig
from stepsearch.evaluation.features.trained import TrainedFeaturesConfig

FEATURES: dict[str, type[FeaturesConfig]] = {
    "classifier": TrainedFeaturesConfig,
    "inception": InceptionConfig,
    "dinov2": DinoV2Config,
    "efficientnet_lite0": EfficientNetLite0Config,
}

AnyFeatures = Annotated[
    TrainedFeaturesConfig | InceptionConfig | DinoV2Config | EfficientNetLite0Config,
    Field(discriminator="kind"),
]

__all__ = [
    "FEATURES",
    "AnyFeatures",
    "DinoV2Config",
    "EfficientNetLite0Config",
    "FeaturesConfig",
    "InceptionConfig",
    "TrainedFeaturesConfig",
]
