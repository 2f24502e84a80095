"""The configuration of a search: what one YAML file says."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from stepsearch.bucket import S3Url
from stepsearch.cluster import LanesConfig
from stepsearch.config import Config, Name, Place, merge, parse
from stepsearch.errors import UserError
from stepsearch.search.metrics import check_metrics
from stepsearch.study import AnyOptunaSampler, Objective, TpeConfig
from stepsearch.tracking import TrackingConfig


class BudgetConfig(Config):
    """How much a search may spend."""

    trials: int = Field(16, ge=1, description="trials proposed, the fixed points included")
    images: int = Field(48_000, ge=1, description="images a finished trial has seen")
    reports: int = Field(5, ge=1, description="evaluations a trial, evenly spaced")
    first_report: float = Field(
        0.25, gt=0, le=1, description="where the first one is, as a share of the images"
    )
    hours: float | None = Field(None, gt=0, description="with at least one lane; none: no limit")
    gpu_hours: float | None = Field(None, gt=0, description="of GPUs that lanes hold")
    cpu_hours: float | None = Field(None, gt=0, description="of CPUs that lanes hold")
    money: float | None = Field(None, gt=0, description="what the lanes cost, by `prices`")

    def milestones(self) -> tuple[int, ...]:
        """`images_seen` at each evaluation, ascending; the last one is the whole budget."""
        if self.reports == 1:
            return (self.images,)
        step = (1 - self.first_report) / (self.reports - 1)
        shares = [self.first_report + step * i for i in range(self.reports)]
        return tuple(sorted({math.ceil(self.images * share - 1e-6) for share in shares}))


class PricesConfig(Config):
    """What a cluster's owner charges for what lanes hold."""

    gpu_hour: float = Field(0.0, ge=0, description="a GPU, for an hour")
    cpu_hour: float = Field(0.0, ge=0, description="a CPU, for an hour")
    currency: str = Field("USD", min_length=1, max_length=10)


class TrialSchedulerConfig(Config):
    """Which trials are stopped early. `asha` (Li et al. 2020), `median` (Golovin et al. 2017)."""

    kind: Literal["asha", "median", "fifo"] = "asha"
    reduction: float = Field(4, gt=1, description="asha: keeps the best 1/reduction at each rung")
    grace: float = Field(
        0.5, ge=0, lt=1, description="share of the images before which no trial is stopped"
    )
    min_trials: int = Field(3, ge=1, description="median: trials seen before it stops one")

    def first_rung(self, budget: BudgetConfig) -> int:
        """`images_seen` at the first report that may end a trial."""
        return next(m for m in budget.milestones() if m >= self.grace * budget.images - 1e-6)


class FinalistsConfig(Config):
    """The best trials and the baseline are trained again on further seeds, in pairs."""

    count: int = Field(1, ge=0, description="how many of the best trials, besides the baseline")
    seeds: int = Field(3, ge=1, description="seeds each of them has in the end")
    by: str | None = Field(
        None, description="a parameter, such as family: the best trial of each of its best values"
    )

    @property
    def repeats(self) -> int:
        """Trials that this adds."""
        return (self.count + 1) * (self.seeds - 1) if self.count else 0


class SearchConfig(Config):
    """One search. `space` and `trainer` are configurations of their own, passed in as objects."""

    name: Name
    space: Any
    trainer: Any
    storage: Place = Field(
        Path("searches"),
        description="folder or s3://bucket/prefix that holds all searches",
        validate_default=True,
    )
    cluster: str = Field("local", min_length=1, description="`local`, `auto` or a Ray address")
    seed: int = Field(0, ge=0, lt=2**31)
    objectives: tuple[Objective, ...] = Field(
        (), description="what Optuna minimises; the first one is primary; none: the trainer's own"
    )
    guards: dict[str, float] | None = Field(
        None,
        description="metric: how much more than the baseline's it may be; none: the trainer's",
    )
    budget: BudgetConfig = BudgetConfig()
    prices: PricesConfig | None = Field(None, description="none: money is not counted")
    lanes: LanesConfig = LanesConfig()
    optuna_sampler: AnyOptunaSampler = TpeConfig()
    trial_scheduler: TrialSchedulerConfig = TrialSchedulerConfig()
    finalists: FinalistsConfig = FinalistsConfig()
    warm_start: Name | None = Field(
        None, description="an earlier search in the storage, to begin from"
    )
    retries: int = Field(1, ge=0, description="how often a failed trial is started again")
    watchdog_s: float = Field(
        1800, gt=0, description="a trial without a sign of life for so many seconds has failed"
    )
    tracking: TrackingConfig = TrackingConfig()

    @model_validator(mode="after")
    def _priced(self) -> SearchConfig:
        _check_prices(self.budget, self.prices)
        return self

    @model_validator(mode="after")
    def _recorded(self) -> SearchConfig:
        if isinstance(self.storage, S3Url) and not self.tracking.is_server:
            raise ValueError(
                "tracking.uri must name an MLflow server (http://...) where storage is a bucket, "
                f"got {self.tracking.uri!r}: a file would be lost with this machine"
            )
        return self

    def check_trainer(self) -> None:
        """Raise UserError unless the trainer fits a lane's workers, and as few as it may have."""
        for workers in (self.lanes.workers, *self.lanes.fewer):
            self.trainer.check(workers)

    def check_space(self) -> None:
        """Raise UserError unless the space fits the trainer, the finalists the space, and what is
        to be compared what trials report."""
        facts = self.trainer.facts()
        self.space.check(facts)
        by, known = self.finalists.by, self.space.fixed(facts)[0].params
        if by is not None and by not in known:
            raise UserError(
                f"finalists.by must be a parameter of the baseline ({', '.join(known)}), "
                f"got {by!r}"
            )
        check_metrics(self.objectives, self.guards or (), self.trainer)

    def resolved(self) -> SearchConfig:
        """With all written out that the file leaves to the trainer."""
        own = Objective(self.trainer.objective())
        objectives = self.objectives or (own,)
        guards = dict(self.trainer.guards()) if self.guards is None else self.guards
        trainer = self.trainer.resolved()
        return self.model_copy(
            update={"objectives": objectives, "guards": guards, "trainer": trainer}
        )

    def extended(
        self,
        trials: int | None = None,
        *,
        hours: float | None = None,
        gpu_hours: float | None = None,
        cpu_hours: float | None = None,
        money: float | None = None,
    ) -> SearchConfig:
        """With so much in all. Raises UserError for less of anything than before."""
        named = {"trials": trials, "hours": hours, "gpu_hours": gpu_hours}
        named |= {"cpu_hours": cpu_hours, "money": money}
        given = {name: value for name, value in named.items() if value is not None}
        for name, value in given.items():
            before = getattr(self.budget, name)
            if before is not None and value < before:
                raise UserError(
                    f"{name} must be at least the {before:g} of {self.name}, got {value:g}"
                )
        budget = parse(BudgetConfig, self.budget.model_dump() | given, where="budget")
        _check_prices(budget, self.prices)
        return self.model_copy(update={"budget": budget})

    @property
    def primary(self) -> Objective:
        """What early stopping and the leaderboard go by, once resolved."""
        if not self.objectives:
            raise UserError(f"objectives of {self.name} must hold one, got none")
        return self.objectives[0]

    def trainer_for(self, proposed: Mapping[str, Any]) -> Any:
        """The trainer's configuration with a proposal laid over it. Raises UserError."""
        return parse(
            type(self.trainer), merge(self.trainer.model_dump(), proposed), where="trainer"
        )

    @property
    def home(self) -> Path:
        """The folder of this machine that holds the searches, or copies of a bucket's."""
        return self.storage.home if isinstance(self.storage, S3Url) else self.storage

    @property
    def folder(self) -> Path:
        """Everything that this search leaves behind, the MLflow store aside."""
        return self.home / self.name


def _check_prices(budget: BudgetConfig, prices: PricesConfig | None) -> None:
    if budget.money is not None and not (prices and (prices.gpu_hour or prices.cpu_hour)):
        raise UserError(
            "budget.money must have a price: set prices.gpu_hour or prices.cpu_hour, "
            f"got money {budget.money:g}"
        )
