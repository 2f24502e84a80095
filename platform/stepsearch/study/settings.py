"""What a study is created with; stored in it, so that a name is enough to open it again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field, field_validator, model_validator

from stepsearch.config import Config, parse
from stepsearch.errors import UserError
from stepsearch.study.records import FINISHED, PREFIX, Direction, Objective
from stepsearch.study.samplers import OPTUNA_SAMPLERS, AnyOptunaSampler

SETTINGS = PREFIX + "settings"


class StudySettings(Config):
    """Objectives, constraints, sampler and seed of one study."""

    objectives: tuple[Objective, ...] = Field(min_length=1)
    constraints: tuple[str, ...] = Field(
        default=(), description="names; a value above 0, told with a trial, makes it infeasible"
    )
    sampler: AnyOptunaSampler
    seed: int = Field(ge=0, lt=2**32)

    @field_validator("objectives")
    @classmethod
    def _objectives_differ(cls, objectives: tuple[Objective, ...]) -> tuple[Objective, ...]:
        _differ("objectives", [objective.name for objective in objectives])
        return objectives

    @field_validator("constraints")
    @classmethod
    def _constraints_differ(cls, constraints: tuple[str, ...]) -> tuple[str, ...]:
        _differ("constraints", [FINISHED, *constraints])
        return constraints

    @model_validator(mode="after")
    def _sampler_takes_all_objectives(self) -> StudySettings:
        if len(self.objectives) > 1 and not self.sampler.several_objectives:
            able = [k for k, v in OPTUNA_SAMPLERS.items() if v.several_objectives]
            raise ValueError(
                f"sampler.kind must be one of {', '.join(able)} for "
                f"{len(self.objectives)} objectives, got {self.sampler.kind!r}"
            )
        return self

    @property
    def several(self) -> bool:
        return len(self.objectives) > 1

    @property
    def directions(self) -> list[Direction]:
        return [objective.direction for objective in self.objectives]

    @classmethod
    def load(cls, attrs: Mapping[str, Any], name: str) -> StudySettings:
        """The settings among a study's attributes."""
        if SETTINGS not in attrs:
            raise UserError(f"study must be one that stepsearch created, got {name!r}")
        return parse(cls, attrs[SETTINGS], f"study {name!r}")


def _differ(field: str, names: list[str]) -> None:
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"{field} must have free names that differ, got {name!r}")
