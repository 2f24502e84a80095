"""Datasets by name: a config each, which loads its images into memory."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from stepsearch.diffusion.datasets.base import Dataset, DatasetConfig
from stepsearch.diffusion.datasets.digits import DigitsConfig
from stepsearch.diffusion.datasets.images import ImageFolderConfig

DATASETS: dict[str, type[DatasetConfig]] = {
    "digits": DigitsConfig,
    "images": ImageFolderConfig,
}

AnyDataset = Annotated[DigitsConfig | ImageFolderConfig, Field(discriminator="kind")]

__all__ = [
    "DATASETS",
    "AnyDataset",
    "Dataset",
    "DatasetConfig",
    "DigitsConfig",
    "ImageFolderConfig",
]
