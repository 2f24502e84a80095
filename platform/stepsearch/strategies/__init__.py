"""Timestep strategies: which timesteps training draws, and how much each one weighs."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from stepsearch.config import parse
from stepsearch.errors import UserError
from stepsearch.strategies.base import (
    FloatArray,
    PredictionType,
    Strategy,
    StrategyConfig,
    TableStrategy,
)
from stepsearch.strategies.compose import ComposeConfig
from stepsearch.strategies.densities import (
    DENSITIES,
    BetaConfig,
    CltsConfig,
    EdmLogNormalConfig,
    LaplaceConfig,
    LogitNormalConfig,
    ModeConfig,
    SpeedLogNormalConfig,
    StepConfig,
    TableConfig,
    TimestepBiasConfig,
    UniformConfig,
    table_of,
)
from stepsearch.strategies.phase import Phase, PhaseConfig
from stepsearch.strategies.speed import SpeedConfig, SpeedReleasedConfig, SpeedV1Config
from stepsearch.strategies.weights import (
    WEIGHTS,
    ChangeAwareConfig,
    CosmapConfig,
    DebiasedConfig,
    EdmWeightConfig,
    MinSnrConfig,
    P2Config,
    SigmaSqrtConfig,
    SoftMinSnrConfig,
    VlbConfig,
)

STRATEGIES: dict[str, type[StrategyConfig]] = {
    "speed": SpeedConfig,
    "speed_released": SpeedReleasedConfig,
    "speed_v1": SpeedV1Config,
    **DENSITIES,
    **WEIGHTS,
    "compose": ComposeConfig,
    "phase": PhaseConfig,
}

AnyStrategy = Annotated[
    SpeedConfig
    | SpeedReleasedConfig
    | SpeedV1Config
    | UniformConfig
    | StepConfig
    | BetaConfig
    | LogitNormalConfig
    | ModeConfig
    | EdmLogNormalConfig
    | SpeedLogNormalConfig
    | LaplaceConfig
    | CltsConfig
    | TimestepBiasConfig
    | TableConfig
    | P2Config
    | MinSnrConfig
    | SoftMinSnrConfig
    | DebiasedConfig
    | VlbConfig
    | EdmWeightConfig
    | CosmapConfig
    | SigmaSqrtConfig
    | ChangeAwareConfig
    | ComposeConfig
    | PhaseConfig,
    Field(discriminator="kind"),
]

# A phase may hold any strategy, phases too.
for _config in (Phase, PhaseConfig):
    _config.model_rebuild(_types_namespace={"AnyStrategy": AnyStrategy})


def strategy(kind: str, **parameters: Any) -> StrategyConfig:
    """The strategy `kind` with these parameters, e.g. strategy("speed", k=5, lam=0.6)."""
    if kind not in STRATEGIES:
        raise UserError(f"strategy must be one of {', '.join(STRATEGIES)}, got {kind!r}")
    return parse(STRATEGIES[kind], parameters, where=kind)


__all__ = [
    "DENSITIES",
    "STRATEGIES",
    "WEIGHTS",
    "AnyStrategy",
    "ComposeConfig",
    "FloatArray",
    "MinSnrConfig",
    "P2Config",
    "PhaseConfig",
    "PredictionType",
    "SpeedConfig",
    "Strategy",
    "StrategyConfig",
    "TableConfig",
    "TableStrategy",
    "UniformConfig",
    "strategy",
    "table_of",
]
