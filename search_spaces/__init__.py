"""Search spaces: what may vary from trial to trial."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, get_args

from pydantic import Field

from search_spaces.adaptive import AdaptiveSpace
from search_spaces.base import FixedPoint, SearchSpace, Suggest
from search_spaces.compose import ComposeSpace
from search_spaces.decl import DeclSpace
from search_spaces.edm2_uncertainty import UncertaintySpace
from search_spaces.families import LEARNED, FamiliesSpace
from search_spaces.family import FamilySpace
from search_spaces.gradient_variance import GradientVarianceSpace
from search_spaces.infonoise import InfoNoiseSpace
from search_spaces.loss_second_moment import LossSecondMomentSpace
from search_spaces.min_snr import MinSnrSpace
from search_spaces.p2 import P2Space
from search_spaces.phase import PhaseSpace
from search_spaces.speed import SpeedSpace
from search_spaces.stage_widths import StageWidthsSpace
from search_spaces.stages import StagesSpace
from search_spaces.timetuner import TimeTunerSpace
from search_spaces.vdm_adaptive import VdmAdaptiveSpace
from stepsearch.config import parse
from stepsearch.errors import UserError
from stepsearch.search.trial import TrainerFacts

SPACES: dict[str, type[SearchSpace]] = {
    "speed": SpeedSpace,
    "p2": P2Space,
    "min_snr": MinSnrSpace,
    **dict.fromkeys(get_args(FamilySpace.model_fields["kind"].annotation), FamilySpace),
    "families": FamiliesSpace,
    "compose": ComposeSpace,
    "phase": PhaseSpace,
    **LEARNED,
    "stages": StagesSpace,
    "stage_widths": StageWidthsSpace,
    "timetuner": TimeTunerSpace,
}

AnySpace = Annotated[
    SpeedSpace
    | P2Space
    | MinSnrSpace
    | FamilySpace
    | FamiliesSpace
    | ComposeSpace
    | PhaseSpace
    | AdaptiveSpace
    | LossSecondMomentSpace
    | VdmAdaptiveSpace
    | InfoNoiseSpace
    | UncertaintySpace
    | GradientVarianceSpace
    | DeclSpace
    | StagesSpace
    | StageWidthsSpace
    | TimeTunerSpace,
    Field(discriminator="kind"),
]


def space(data: str | Mapping[str, Any]) -> SearchSpace:
    """The space behind a name or a mapping: "speed" or {"kind": "speed", "k": [1, 25]}."""
    kind = data.get("kind") if isinstance(data, Mapping) else data
    if kind not in SPACES:
        raise UserError(f"space must be one of {', '.join(SPACES)}, got {kind!r}")
    return parse(SPACES[kind], data if isinstance(data, Mapping) else {"kind": kind}, where=kind)


__all__ = [
    "SPACES",
    "AdaptiveSpace",
    "AnySpace",
    "ComposeSpace",
    "DeclSpace",
    "FamiliesSpace",
    "FamilySpace",
    "FixedPoint",
    "GradientVarianceSpace",
    "InfoNoiseSpace",
    "LossSecondMomentSpace",
    "MinSnrSpace",
    "P2Space",
    "PhaseSpace",
    "SearchSpace",
    "SpeedSpace",
    "StageWidthsSpace",
    "StagesSpace",
    "Suggest",
    "TimeTunerSpace",
    "TrainerFacts",
    "UncertaintySpace",
    "VdmAdaptiveSpace",
    "space",
]
