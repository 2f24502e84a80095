"""Densities: which timesteps are drawn. Each is a strategy by itself and a factor of `compose`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from stepsearch.strategies.base import StrategyConfig
from stepsearch.strategies.densities.beta import BetaConfig
from stepsearch.strategies.densities.clts import CltsConfig
from stepsearch.strategies.densities.edm_log_normal import EdmLogNormalConfig
from stepsearch.strategies.densities.laplace import LaplaceConfig
from stepsearch.strategies.densities.logit_normal import LogitNormalConfig
from stepsearch.strategies.densities.mode import ModeConfig
from stepsearch.strategies.densities.speed_log_normal import SpeedLogNormalConfig
from stepsearch.strategies.densities.step import StepConfig
from stepsearch.strategies.densities.table import TableConfig, table_of
from stepsearch.strategies.densities.timestep_bias import TimestepBiasConfig
from stepsearch.strategies.densities.uniform import UniformConfig

DENSITIES: dict[str, type[StrategyConfig]] = {
    "uniform": UniformConfig,
    "step": StepConfig,
    "beta": BetaConfig,
    "logit_normal": LogitNormalConfig,
    "mode": ModeConfig,
    "edm_log_normal": EdmLogNormalConfig,
    "speed_log_normal": SpeedLogNormalConfig,
    "laplace": LaplaceConfig,
    "clts": CltsConfig,
    "timestep_bias": TimestepBiasConfig,
    "table": TableConfig,
}

AnyDensity = Annotated[
    UniformConfig
    | StepConfig
    | BetaConfig
    | LogitNormalConfig
    | ModeConfig
    | EdmLogNormalConfig
    | SpeedLogNormalConfig
    | LaplaceConfig
    | CltsConfig
    | TimestepBiasConfig
    | TableConfig,
    Field(discriminator="kind"),
]

__all__ = [
    "DENSITIES",
    "AnyDensity",
    "BetaConfig",
    "CltsConfig",
    "EdmLogNormalConfig",
    "LaplaceConfig",
    "LogitNormalConfig",
    "ModeConfig",
    "SpeedLogNormalConfig",
    "StepConfig",
    "TableConfig",
    "TimestepBiasConfig",
    "UniformConfig",
    "table_of",
]
