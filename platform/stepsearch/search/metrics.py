"""Whether a search names metrics that its trials report, and wants of them what is better."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from stepsearch.errors import UserError
from stepsearch.search.trial import Declares
from stepsearch.study import Objective

_BETTER = {"minimize": "lower", "maximize": "higher"}


def check_metrics(objectives: Sequence[Objective], guards: Collection[str], trainer: Any) -> None:
    """Raise UserError unless the trainer's trials report them; a trainer may not say what it does.

    A misspelled guard would bind nobody, and a trial without a misspelled objective would have
    failed when all its images are spent. A guard allows a metric to be so much *higher*.
    """
    declares = isinstance(trainer, Declares)
    if not declares or not (objectives or guards):
        return
    own = dict.fromkeys([trainer.objective(), *trainer.guards()], "minimize")
    known = own | dict(trainer.reported())
    for i, objective in enumerate(objectives):
        _check_objective(f"objectives[{i}]", objective, known)
    lower = [name for name, direction in known.items() if direction == "minimize"]
    for name in guards:
        if name not in lower:
            higher = ", which is better when higher" if name in known else ""
            raise UserError(
                "guards must be of metrics that trials report and that are better when lower "
                f"({', '.join(lower)}), got {name!r}{higher}"
            )


def _check_objective(where: str, objective: Objective, known: Mapping[str, str]) -> None:
    if objective.name not in known:
        raise UserError(
            f"{where}.name must be a metric that trials report ({', '.join(known)}), "
            f"got {objective.name!r}"
        )
    better = known[objective.name]
    if objective.direction != better:
        raise UserError(
            f"{where}.direction must be {better} for {objective.name}, which is better when "
            f"{_BETTER[better]}, got {objective.direction!r}"
        )
