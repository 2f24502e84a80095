"""Search over families: the family itself is a choice, its numbers depend on it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, field_validator

from search_spaces.adaptive import AdaptiveSpace
from search_spaces.base import FixedPoint, Position, Range, SearchSpace, Suggest
from search_spaces.decl import DeclSpace
from search_spaces.edm2_uncertainty import UncertaintySpace
from search_spaces.gradient_variance import GradientVarianceSpace
from search_spaces.infonoise import InfoNoiseSpace
from search_spaces.learned import LearnedSpace, Prefixed
from search_spaces.loss_second_moment import LossSecondMomentSpace
from search_spaces.ranges import FAMILIES, as_strategy, check_ranges, positions, searched
from search_spaces.vdm_adaptive import VdmAdaptiveSpace
from stepsearch.config import parse
from stepsearch.errors import UserError
from stepsearch.search.trial import TrainerFacts
from stepsearch.strategies import strategy

LEARNED: dict[str, type[LearnedSpace]] = {
    "adaptive": AdaptiveSpace,
    "loss_second_moment": LossSecondMomentSpace,
    "vdm_adaptive": VdmAdaptiveSpace,
    "infonoise": InfoNoiseSpace,
    "edm2_uncertainty": UncertaintySpace,
    "gradient_variance": GradientVarianceSpace,
    "decl": DeclSpace,
}
"""The families that learn while the denoiser does, each with a space of its own."""
_MIRRORED = ("speed_released", "speed_v1")
"""Not on every noise process, see stepsearch.strategies.mirror."""


class FamiliesSpace(SearchSpace):
    """One of several families, or uniform; the baseline and all papers' points come first.

    Numbers are called family.number: `ranges: {laplace.mu: [-1, 1], adaptive.lr: [1e-3, 1e-1]}`.
    TPE with `group: true` follows the branches of such a space.
    """

    kind: Literal["families"] = "families"
    families: tuple[str, ...] = Field(
        default=tuple(kind for kind in (*FAMILIES, *LEARNED) if kind not in _MIRRORED),
        min_length=1,
    )
    """All but SpeeD's two released versions, whose draws are mirrored, unless named."""
    ranges: dict[str, Range] = Field(default={})

    @field_validator("families")
    @classmethod
    def _exist(cls, families: tuple[str, ...]) -> tuple[str, ...]:
        known = (*FAMILIES, *LEARNED)
        for family in families:
            if family not in known:
                raise ValueError(f"families must be among {', '.join(known)}, got {family!r}")
        if len(set(families)) < len(families):
            raise ValueError(f"families must not repeat, got {', '.join(families)}")
        return families

    @field_validator("ranges")
    @classmethod
    def _known(cls, ranges: dict[str, Range], info: Any) -> dict[str, Range]:
        chosen = info.data.get("families", ())
        tables = [searched(kind, f"{kind}.") for kind in chosen if kind in FAMILIES]
        others = [name for kind in chosen if kind in LEARNED for name in _names(kind)]
        check_ranges(ranges, {k: v for table in tables for k, v in table.items()}, others)
        for kind in (kind for kind in LEARNED if kind in chosen):
            _learned(kind, ranges)
        return ranges

    def suggest(self, trial: Suggest, facts: TrainerFacts) -> dict[str, Any]:
        kind = trial.suggest_categorical("family", ("uniform", *self.families))
        if kind == "uniform":
            return {"strategy": {"kind": "uniform"}}
        if kind in LEARNED:
            return _learned(kind, self.ranges).suggest(Prefixed(trial, kind), facts)
        numbers = FAMILIES[kind].suggest(trial, kind, self.ranges, f"{kind}.")
        return {"strategy": as_strategy(kind, numbers, facts)}

    def fixed(self, facts: TrainerFacts) -> list[FixedPoint]:
        points = [FixedPoint("uniform", {"family": "uniform"})]
        for kind in self.families:
            for label, at in self._papers(kind).items():
                numbers = {f"{kind}.{name}": value for name, value in at.items()}
                points.append(FixedPoint(label, {"family": kind, **numbers}))
        return [point for point in points if point.lies_in(self.ranges)]

    def check(self, facts: TrainerFacts) -> None:
        super().check(facts)
        for kind in set(_MIRRORED) & set(self.families):
            strategy(kind).build(facts.alpha_bar, facts.prediction_type)

    def _papers(self, kind: str) -> Mapping[str, Mapping[str, Any]]:
        """The family's points by their labels."""
        if kind in LEARNED:
            return {point.label: point.params for point in _learned(kind, self.ranges).papers()}
        return FAMILIES[kind].points

    def positions(self) -> Mapping[str, Position]:
        return positions(*self.families)


def _learned(kind: str, ranges: Mapping[str, Range]) -> LearnedSpace:
    """The space of a family that learns, with those of the ranges that are its own."""
    families = ((name.partition("."), ends) for name, ends in ranges.items())
    own = {name: ends for (family, _, name), ends in families if family == kind}
    try:
        return parse(LEARNED[kind], {"kind": kind, **own}, where=kind)
    except UserError as error:
        raise ValueError(str(error)) from None


def _names(kind: str) -> list[str]:
    """What has a range in the space of a family that learns, called family.number."""
    return [f"{kind}.{name}" for name in ("share", *LEARNED[kind](kind=kind).ranges())]
