"""Timestep strategies: which timesteps training draws, and how much each one weighs."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from stepsearch.config import parse
from stepsearch.errors import UserError
from stepsearch.strategies.adaptive import (
    AdaptiveConfig,
    DeclConfig,
    GradientVarianceConfig,
    InfoNoiseConfig,
    LossSecondMomentConfig,
    UncertaintyConfig,
    VdmAdaptiveConfig,
)
from stepsearch.strategies.base import (
    FloatArray,
    PredictionType,
    Step,
    Strategy,
    StrategyConfig,
    TableStrategy,
)
from stepsearch.strategies.min_snr import MinSnrConfig
from stepsearch.strategies.p2 import P2Config
from stepsearch.strategies.speed import SpeedConfig
from stepsearch.strategies.uniform import UniformConfig

STRATEGIES: dict[str, type[StrategyConfig]] = {
    "uniform": UniformConfig,
    "speed": SpeedConfig,
    "p2": P2Config,
    "min_snr": MinSnrConfig,
    "adaptive": AdaptiveConfig,
    "loss_second_moment": LossSecondMomentConfig,
    "vdm_adaptive": VdmAdaptiveConfig,
    "infonoise": InfoNoiseConfig,
    "edm2_uncertainty": UncertaintyConfig,
    "decl": DeclConfig,
    "gradient_variance": GradientVarianceConfig,
}

AnyStrategy = Annotated[
    UniformConfig
    | SpeedConfig
    | P2Config
    | MinSnrConfig
    | AdaptiveConfig
    | LossSecondMomentConfig
    | VdmAdaptiveConfig
    | InfoNoiseConfig
    | UncertaintyConfig
    | DeclConfig
    | GradientVarianceConfig,
    Field(discriminator="kind"),
]


def strategy(kind: str, **parameters: Any) -> StrategyConfig:
    """The strategy `kind` with these parameters, e.g. strategy("speed", k=5, lam=0.6)."""
    if kind not in STRATEGIES:
        raise UserError(f"strategy must be one of {', '.join(STRATEGIES)}, got {kind!r}")
    return parse(STRATEGIES[kind], parameters, where=kind)


__all__ = [
    "STRATEGIES",
    "AdaptiveConfig",
    "AnyStrategy",
    "DeclConfig",
    "FloatArray",
    "GradientVarianceConfig",
    "InfoNoiseConfig",
    "LossSecondMomentConfig",
    "MinSnrConfig",
    "P2Config",
    "PredictionType",
    "SpeedConfig",
    "Step",
    "Strategy",
    "StrategyConfig",
    "TableStrategy",
    "UncertaintyConfig",
    "UniformConfig",
    "VdmAdaptiveConfig",
    "strategy",
]
