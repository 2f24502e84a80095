"""What the study keeps of a trial, and the table of how a trial can end."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

from optuna.trial import FrozenTrial, TrialState

from stepsearch.errors import UserError

Outcome = Literal["finished", "pruned", "diverged", "error"]
Direction = Literal["minimize", "maximize"]

# What Optuna is told: with one objective, with several. Optuna has no pruning for several
# objectives, so there an early stop is a complete trial that breaks the constraint `finished`.
STATES: dict[Outcome, tuple[TrialState, TrialState]] = {
    "finished": (TrialState.COMPLETE, TrialState.COMPLETE),
    "pruned": (TrialState.PRUNED, TrialState.COMPLETE),
    "diverged": (TrialState.FAIL, TrialState.FAIL),
    "error": (TrialState.FAIL, TrialState.FAIL),
}
FOREIGN: dict[TrialState, Outcome] = {
    TrialState.COMPLETE: "finished",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "error",
}
FINISHED = "finished"
MEMORY = "memory"
"""The constraint that a trial breaks whose parameters need more memory than there is."""

# The user attributes under which a trial's own data lie beside the caller's.
PREFIX = "stepsearch:"
FIXED = PREFIX + "fixed"
PROPOSED = PREFIX + "proposed"
CURVE = PREFIX + "curve"
ENDING = PREFIX + "ending"
PASSED_OVER = PREFIX + "passed_over"


@dataclass(frozen=True)
class Objective:
    """A metric that the study makes small or large."""

    name: str
    direction: Direction = "minimize"

    def __post_init__(self) -> None:
        if self.direction not in get_args(Direction):
            choices = " or ".join(get_args(Direction))
            raise UserError(f"direction must be {choices}, got {self.direction!r}")


@dataclass(frozen=True)
class Proposal:
    """A trial to be run."""

    number: int
    params: dict[str, Any]
    values: dict[str, Any]
    """What the search space returned, as JSON keeps it."""
    attrs: dict[str, Any] = field(default_factory=dict)
    """What the fixed point was queued with; empty for the sampler's own proposals."""


@dataclass(frozen=True)
class TrialRecord:
    """A trial that was asked for, as far as it has come."""

    number: int
    params: dict[str, Any]
    proposed: dict[str, Any]
    """What the search space returned: `Proposal.values`."""
    attrs: dict[str, Any]
    outcome: Outcome | None
    """None while it runs."""
    values: tuple[float, ...] | None
    """One value an objective; of a pruned trial the last ones measured."""
    reason: str | None
    constraints: dict[str, float]
    intermediate: dict[int, float]
    """images_seen -> the value reported there."""

    @property
    def feasible(self) -> bool:
        """It reached its budget and breaks no constraint."""
        return self.outcome == FINISHED and all(v <= 0 for v in self.constraints.values())


@dataclass(frozen=True)
class Ending:
    """How a trial ended, in the form that is stored."""

    outcome: Outcome
    values: tuple[float, ...] | None = None
    reason: str | None = None
    constraints: dict[str, float] = field(default_factory=dict)

    def state(self, several: bool) -> TrialState:
        """What Optuna is told, with one objective or with several.

        Its samplers take no notice of failed trials, so an error that others would meet as well is
        a pruned one that breaks a constraint; with several objectives Optuna knows no such state.
        """
        if MEMORY in self.constraints and not several:
            return TrialState.PRUNED
        state = STATES[self.outcome][several]
        return TrialState.FAIL if state is TrialState.COMPLETE and self.values is None else state

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def of(cls, trial: FrozenTrial) -> Ending | None:
        """The ending that is stored with a trial; it may still have to be carried out."""
        stored = trial.user_attrs.get(ENDING)
        if stored is not None:
            values = stored["values"]
            return cls(**{**stored, "values": None if values is None else tuple(values)})
        if trial.state.is_finished():
            return cls(FOREIGN[trial.state], reason="ended by another program")
        return None

    def agrees(self, other: Ending) -> bool:
        """Whether both say the same, in whatever words."""
        return (self.outcome, self.values) == (other.outcome, other.values)


def settle(
    outcome: Outcome,
    values: Sequence[float | None] | None,
    reason: str | None,
    constraints: Mapping[str, float | None],
    objectives: Sequence[Objective],
    declared: Sequence[str],
) -> Ending:
    """How a trial ended, from what was measured.

    A finished trial brings a finite value for every objective and every declared constraint, or
    else it diverged. A pruned one keeps its values if it brings all of them, and diverged if one
    is not finite.
    """
    _check(outcome, values, constraints, objectives, declared)
    if outcome in ("diverged", "error"):
        lasting = {name: 1.0 for name in constraints if name == MEMORY}
        return Ending(outcome, reason=reason, constraints=lasting)
    names = [objective.name for objective in objectives]
    measured = _floats(zip(names, values or (), strict=False))
    met = _floats((name, constraints[name]) for name in declared if name in constraints)
    odd = [f"{n} is {v}" for n, v in (*measured.items(), *met.items()) if not math.isfinite(v)]
    missing = [n for n in names if n not in measured] + [n for n in declared if n not in met]
    if odd or (missing and outcome == "finished"):
        return Ending("diverged", reason=", ".join(odd + [f"{n} is missing" for n in missing]))
    if missing:
        return Ending(outcome, reason=reason)
    if len(objectives) > 1:
        short = float(constraints.get(FINISHED) or 1) if outcome == "pruned" else 0.0
        met = {FINISHED: short, **met}
    return Ending(outcome, tuple(measured.values()), reason, met)


def _floats(pairs: Iterable[tuple[str, float | None]]) -> dict[str, float]:
    return {name: float(value) for name, value in pairs if value is not None}


def _check(
    outcome: str,
    values: Sequence[float | None] | None,
    constraints: Mapping[str, float | None],
    objectives: Sequence[Objective],
    declared: Sequence[str],
) -> None:
    if outcome not in STATES:
        raise UserError(f"outcome must be one of {', '.join(STATES)}, got {outcome!r}")
    if values is not None and len(values) > len(objectives):
        names = ", ".join(objective.name for objective in objectives)
        raise UserError(f"values must be one an objective ({names}), got {len(values)}")
    for name in constraints:
        if name not in declared and name not in (FINISHED, MEMORY):
            known = ", ".join(declared) or "none"
            raise UserError(f"constraints must be among those declared ({known}), got {name!r}")
    short = constraints.get(FINISHED, 1.0)
    if outcome == "pruned" and not (short or 0) > 0:
        raise UserError(f"constraints.finished must be > 0 for a pruned trial, got {short}")


def record(trial: FrozenTrial) -> TrialRecord:
    """Optuna's trial as the rest of stepsearch sees it."""
    attrs = trial.user_attrs
    ending = Ending.of(trial) if trial.state.is_finished() else None
    curve = trial.intermediate_values or {int(s): v for s, v in attrs.get(CURVE, {}).items()}
    failed = ending is not None and ending.outcome == "error"
    values = None if failed else trial.values or (ending.values if ending else None)
    return TrialRecord(
        number=trial.number,
        params=dict(trial.params),
        proposed=attrs.get(PROPOSED, {}),
        attrs=callers(attrs),
        outcome=ending.outcome if ending else None,
        values=tuple(values) if values else None,
        reason=ending.reason if ending else None,
        constraints=trial.constraints,
        intermediate=dict(sorted(curve.items())),
    )


def proposal(trial: FrozenTrial) -> Proposal:
    """What was asked of a trial."""
    attrs = trial.user_attrs
    return Proposal(trial.number, dict(trial.params), attrs[PROPOSED], callers(attrs))


def callers(attrs: Mapping[str, Any]) -> dict[str, Any]:
    """The attributes that the caller gave."""
    return {name: value for name, value in attrs.items() if not name.startswith(PREFIX)}
