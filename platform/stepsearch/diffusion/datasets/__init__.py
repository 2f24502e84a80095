"""Datasets by name: a config each, which loads its images or latents."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from stepsearch.diffusion.datasets.base import Dataset, DatasetConfig
from stepsearch.diffusion.datasets.digits import DigitsConfig
from stepsearch.diffusion.datasets.images import ImagesConfig
from stepsearch.diffusion.datasets.latents import LatentsConfig

DATASETS: dict[str, type[DatasetConfig]] = {
    "digits": DigitsConfig,
    "images": ImagesConfig,
    "latents": LatentsConfig,
}

AnyDataset = Annotated[DigitsConfig | ImagesConfig | LatentsConfig, Field(discriminator="kind")]

__all__ = [
    "DATASETS",
    "AnyDataset",
    "Dataset",
    "DatasetConfig",
    "DigitsConfig",
    "ImagesConfig",
    "LatentsConfig",
]
