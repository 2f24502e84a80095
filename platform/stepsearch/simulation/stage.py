"""The stage of simulated searches: one configuration, set among recorded curves."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from stepsearch.errors import UserError
from stepsearch.search.config import SearchConfig
from stepsearch.search.history import Metrics
from stepsearch.search.leaderboard import guard_excess
from stepsearch.simulation.curves import Curves, Recording
from stepsearch.study.unit_cube import UnitCube


@dataclass(frozen=True)
class Act:
    """What a replayed trial does up to its next report."""

    images_seen: int
    """At the report."""
    images: int
    """Since the last one."""
    seconds: float
    """Training and evaluation, on the recorded machine."""
    metrics: Metrics


class Stage:
    """What all simulated searches of one configuration share.

    The budget may differ from the recorded one: milestones are matched by their share of it, and
    training takes longer in proportion. `config` names its own objectives and guards where they
    were recorded; an objective that was not (another data set's) is played by the recorded one.
    """

    def __init__(
        self, config: SearchConfig, curves: Curves, *, lanes: int = 1, reuse: bool = False
    ) -> None:
        """Raises UserError where configuration and curves do not fit together."""
        self.config = _with_recorded_objectives(config.resolved(), curves)
        self.curves, self.lanes, self.reuse = curves, lanes, reuse
        facts = config.trainer.facts()

        def space(trial: Any) -> dict[str, Any]:
            overrides: dict[str, Any] = config.space.suggest(trial, facts)
            return overrides

        self.cube = UnitCube(space)
        _check_parameters(self.cube, curves)
        self.candidates = [r for r in curves.originals if self.cube.holds(r.params)]
        _check_number(config.budget.trials, len(self.candidates), reuse)
        self.matched = _matched(self.config, curves)
        self.acts = self._acts()

    @cached_property
    def best(self) -> Recording:
        """The best recording in the space that keeps within the guards, on its first seed."""
        sign = 1 if self.config.primary.direction == "minimize" else -1
        able = [r for r in self.candidates if self._within_guards(r)]
        return min(able, key=lambda r: sign * r.final[self.config.primary.name])

    def regret(self, recording: Recording) -> float | None:
        """How much worse a recording ends than the best one, as a share; None: beyond a guard."""
        name, direction = self.config.primary.name, self.config.primary.direction
        if not self._within_guards(recording):
            return None
        best, worse = self.best.final[name], recording.final[name] - self.best.final[name]
        return (worse if direction == "minimize" else -worse) / abs(best)

    def _within_guards(self, recording: Recording) -> bool:
        guards = self.config.guards or {}
        excess = guard_excess(recording.final, self.curves.baseline.final, guards)
        return all(value <= 0 for value in excess.values())

    def _acts(self) -> dict[int, list[Act]]:
        """What each recording, the repeats included, does under this configuration's budget."""
        stretch = self.config.budget.images / self.curves.budget
        return {r.number: _play(r, self.matched, stretch) for r in self.curves.recordings}


def _play(recording: Recording, milestones: dict[int, int], stretch: float) -> list[Act]:
    """`milestones`: images_seen -> the recorded images_seen that stands for it."""
    acts, before, recorded_before = [], 0, 0
    for images_seen, recorded in milestones.items():
        trained = sum(
            metrics["train_cpu_s"]
            for at, metrics in recording.reports.items()
            if recorded_before < at <= recorded
        )
        metrics = recording.reports[recorded]
        seconds = stretch * trained + metrics["evaluation_cpu_s"]
        acts.append(Act(images_seen, images_seen - before, seconds, metrics))
        before, recorded_before = images_seen, recorded
    return acts


def _matched(config: SearchConfig, curves: Curves) -> dict[int, int]:
    """For each milestone the recorded one at the same share of the budget."""
    images = config.budget.images
    matched = {}
    for own in config.budget.milestones():
        recorded = min(curves.milestones, key=lambda at: abs(at / curves.budget - own / images))
        if abs(recorded / curves.budget - own / images) > 1 / curves.budget + 1 / images:
            shares = _shares([m / images for m in config.budget.milestones()])
            raise UserError(
                f"budget must report at recorded shares of the images ({_shares(curves.shares)}), "
                f"got {shares}"
            )
        matched[own] = recorded
    return matched


def _shares(shares: Any) -> str:
    return ", ".join(f"{share:g}" for share in shares)


def _with_recorded_objectives(config: SearchConfig, curves: Curves) -> SearchConfig:
    unknown = [o.name for o in config.objectives if o.name not in curves.metrics]
    if unknown and len(config.objectives) > 1:
        known = ", ".join(curves.metrics)
        raise UserError(f"objectives must be recorded ({known}), got {unknown[0]!r}")
    for name in config.guards or {}:
        if name not in curves.metrics:
            known = ", ".join(curves.metrics)
            raise UserError(f"guards must be recorded ({known}), got {name!r}")
    objectives = (curves.primary,) if unknown else config.objectives
    return config.model_copy(update={"objectives": objectives})


def _check_parameters(cube: UnitCube, curves: Curves) -> None:
    if set(cube.names) != set(curves.params):
        known = ", ".join(sorted(curves.params))
        got = ", ".join(sorted(cube.names))
        raise UserError(f"space must have the recorded parameters ({known}), got {got}")


def _check_number(trials: int, recordings: int, reuse: bool) -> None:
    if trials > recordings and not reuse:
        raise UserError(
            f"budget.trials must be at most {recordings}, the configurations that were recorded "
            f"inside the space's ranges, got {trials}"
        )
