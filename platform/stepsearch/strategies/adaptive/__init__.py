"""Strategies that learn while the denoiser does: they own state, which checkpoints hold."""

from stepsearch.strategies.adaptive.decl import DeclConfig
from stepsearch.strategies.adaptive.gradient_variance import GradientVarianceConfig
from stepsearch.strategies.adaptive.infonoise import InfoNoiseConfig
from stepsearch.strategies.adaptive.loss_second_moment import LossSecondMomentConfig
from stepsearch.strategies.adaptive.timestep_sampler import PAPER, AdaptiveConfig
from stepsearch.strategies.adaptive.uncertainty import UncertaintyConfig
from stepsearch.strategies.adaptive.vdm_adaptive import VdmAdaptiveConfig

__all__ = [
    "PAPER",
    "AdaptiveConfig",
    "DeclConfig",
    "GradientVarianceConfig",
    "InfoNoiseConfig",
    "LossSecondMomentConfig",
    "UncertaintyConfig",
    "VdmAdaptiveConfig",
]
