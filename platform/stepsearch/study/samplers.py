"""How new trials are proposed: one configuration for each of Optuna's samplers."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, ClassVar, Literal

import numpy as np
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import (
    BaseSampler,
    GPSampler,
    NSGAIIISampler,
    NSGAIISampler,
    QMCSampler,
    RandomSampler,
    TPESampler,
)
from pydantic import Field, model_validator

from stepsearch.config import Config
from stepsearch.study.from_the_best import CmaEsFromTheBest


class OptunaSamplerConfig(Config, ABC):
    """Base of every kind; subclasses set `kind`.

    `build` makes a fresh Optuna sampler for each trial, seeded by the study's seed and the trial's
    number. A sampler that lived on would carry a random state that no storage holds, and a resumed
    search would repeat proposals or go another way.
    """

    kind: str
    several_objectives: ClassVar[bool] = True

    @abstractmethod
    def build(self, seed: int, number: int) -> BaseSampler:
        """The sampler that proposes trial `number` of a study with `seed`."""


class TpeConfig(OptunaSamplerConfig):
    """Tree-structured Parzen estimators (Bergstra et al. 2011); follows conditional spaces."""

    kind: Literal["tpe"] = "tpe"
    n_startup_trials: int = Field(default=10, ge=1, description="finished trials that are random")
    multivariate: bool = Field(default=True, description="one joint density, not one a parameter")
    group: bool = Field(default=False, description="a joint density in each branch of the space")
    constant_liar: bool = Field(default=True, description="keep away from running trials")

    @model_validator(mode="after")
    def _groups_are_joint(self) -> TpeConfig:
        if self.group and not self.multivariate:
            raise ValueError("group must be false when multivariate is false, got True")
        return self

    def build(self, seed: int, number: int) -> TPESampler:
        with _experimental():  # group
            return TPESampler(
                n_startup_trials=self.n_startup_trials,
                multivariate=self.multivariate,
                group=self.group,
                constant_liar=self.constant_liar,
                seed=trial_seed(seed, number),
            )


class GpConfig(OptunaSamplerConfig):
    """A Gaussian process with log expected improvement; conditional parameters are random."""

    kind: Literal["gp"] = "gp"
    n_startup_trials: int = Field(default=10, ge=1, description="finished trials that are random")

    def build(self, seed: int, number: int) -> GPSampler:
        return GPSampler(
            n_startup_trials=self.n_startup_trials,
            warn_independent_sampling=False,
            seed=trial_seed(seed, number),
        )


class CmaEsConfig(OptunaSamplerConfig):
    """CMA-ES (Hansen 2016) from the best trial so far, one objective.

    Conditional and categorical parameters are random, and constraints count for the start alone.
    """

    kind: Literal["cmaes"] = "cmaes"
    several_objectives: ClassVar[bool] = False
    n_startup_trials: int = Field(
        default=1, ge=1, description="finished trials, fixed points or random ones, to begin after"
    )
    sigma0: float = Field(
        default=1 / 6, gt=0, le=1, description="first standard deviation, a share of each range"
    )

    def build(self, seed: int, number: int) -> CmaEsFromTheBest:
        return CmaEsFromTheBest(self.n_startup_trials, self.sigma0, trial_seed(seed, number))


class Nsga2Config(OptunaSamplerConfig):
    """NSGA-II (Deb et al. 2002); begins at random."""

    kind: Literal["nsga2"] = "nsga2"
    population_size: int = Field(default=50, ge=2, description="trials a generation")

    def build(self, seed: int, number: int) -> NSGAIISampler:
        return NSGAIISampler(population_size=self.population_size, seed=trial_seed(seed, number))


class Nsga3Config(OptunaSamplerConfig):
    """NSGA-III (Deb and Jain 2014), made for three objectives and more; begins at random."""

    kind: Literal["nsga3"] = "nsga3"
    population_size: int = Field(default=50, ge=2, description="trials a generation")

    def build(self, seed: int, number: int) -> NSGAIIISampler:
        with _experimental():
            return NSGAIIISampler(
                population_size=self.population_size, seed=trial_seed(seed, number)
            )


class QmcConfig(OptunaSamplerConfig):
    """A scrambled Sobol sequence over the first trial's parameters; all others are random."""

    kind: Literal["qmc"] = "qmc"

    def build(self, seed: int, number: int) -> QMCSampler:
        with _experimental():
            return QMCSampler(
                scramble=True,
                seed=seed,  # one sequence for the whole study
                independent_sampler=RandomSampler(seed=trial_seed(seed, number)),
                warn_independent_sampling=False,
            )


class RandomConfig(OptunaSamplerConfig):
    """Independent draws, uniform over each range."""

    kind: Literal["random"] = "random"

    def build(self, seed: int, number: int) -> RandomSampler:
        return RandomSampler(seed=trial_seed(seed, number))


class GridConfig(OptunaSamplerConfig):
    """Every point of a grid once, in an order shuffled by the seed; see `spaces.grid`."""

    kind: Literal["grid"] = "grid"
    points: int = Field(default=5, ge=2, description="values of each number")

    def build(self, seed: int, number: int) -> RandomSampler:
        return RandomSampler(seed=trial_seed(seed, number))


OPTUNA_SAMPLERS: dict[str, type[OptunaSamplerConfig]] = {
    "tpe": TpeConfig,
    "gp": GpConfig,
    "cmaes": CmaEsConfig,
    "nsga2": Nsga2Config,
    "nsga3": Nsga3Config,
    "qmc": QmcConfig,
    "random": RandomConfig,
    "grid": GridConfig,
}

AnyOptunaSampler = Annotated[
    TpeConfig
    | GpConfig
    | CmaEsConfig
    | Nsga2Config
    | Nsga3Config
    | QmcConfig
    | RandomConfig
    | GridConfig,
    Field(discriminator="kind"),
]


def trial_seed(seed: int, number: int) -> int:
    """A 32-bit seed for one trial; hashed, so that neighbouring trials share nothing."""
    return int(np.random.SeedSequence((seed, number)).generate_state(1)[0])


@contextmanager
def _experimental() -> Iterator[None]:
    """Who names an experimental sampler in a configuration need not be warned of it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        yield
