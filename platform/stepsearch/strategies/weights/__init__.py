"""Weights on the loss. Each is a strategy on uniform draws and a factor of `compose`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from stepsearch.strategies.base import StrategyConfig
from stepsearch.strategies.densities import TableConfig, UniformConfig
from stepsearch.strategies.weights.change_aware import ChangeAwareConfig
from stepsearch.strategies.weights.debiased import DebiasedConfig
from stepsearch.strategies.weights.edm import EdmWeightConfig
from stepsearch.strategies.weights.min_snr import MinSnrConfig
from stepsearch.strategies.weights.p2 import P2Config
from stepsearch.strategies.weights.sd3 import CosmapConfig, SigmaSqrtConfig
from stepsearch.strategies.weights.soft_min_snr import SoftMinSnrConfig
from stepsearch.strategies.weights.vlb import VlbConfig

WEIGHTS: dict[str, type[StrategyConfig]] = {
    "uniform": UniformConfig,
    "p2": P2Config,
    "min_snr": MinSnrConfig,
    "soft_min_snr": SoftMinSnrConfig,
    "debiased": DebiasedConfig,
    "vlb": VlbConfig,
    "edm": EdmWeightConfig,
    "cosmap": CosmapConfig,
    "sigma_sqrt": SigmaSqrtConfig,
    "change_aware": ChangeAwareConfig,
    "table": TableConfig,
}

AnyWeight = Annotated[
    UniformConfig
    | P2Config
    | MinSnrConfig
    | SoftMinSnrConfig
    | DebiasedConfig
    | VlbConfig
    | EdmWeightConfig
    | CosmapConfig
    | SigmaSqrtConfig
    | ChangeAwareConfig
    | TableConfig,
    Field(discriminator="kind"),
]

__all__ = [
    "WEIGHTS",
    "AnyWeight",
    "ChangeAwareConfig",
    "CosmapConfig",
    "DebiasedConfig",
    "EdmWeightConfig",
    "MinSnrConfig",
    "P2Config",
    "SigmaSqrtConfig",
    "SoftMinSnrConfig",
    "VlbConfig",
]
