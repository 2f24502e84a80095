"""Carrying a finished trial over from another study."""

from __future__ import annotations

from optuna.trial import FrozenTrial, create_trial

from stepsearch.errors import UserError
from stepsearch.study.records import CURVE, ENDING, FINISHED, PROPOSED
from stepsearch.study.settings import StudySettings
from stepsearch.study.spaces import Space, run_fixed

WARM_START = "warm_start"


def transplant(
    trial: FrozenTrial, source: str, space: Space, settings: StudySettings
) -> FrozenTrial | None:
    """`trial` as one of a study over `space`; None if it is no point of it or lacks a constraint.

    It takes the distributions of `space`: Optuna's samplers do not mix trials that were drawn
    from different ranges.
    """
    try:
        probe, values = run_fixed(space, trial.params, source)
    except UserError:
        return None
    needed = ([FINISHED] if settings.several else []) + list(settings.constraints)
    if not trial.constraints.keys() >= set(needed):
        return None
    return create_trial(
        values=trial.values,
        params=probe.params,
        distributions=probe.distributions,
        intermediate_values=trial.intermediate_values,
        constraints={name: trial.constraints[name] for name in needed},
        user_attrs={
            **{key: trial.user_attrs[key] for key in (CURVE, ENDING) if key in trial.user_attrs},
            PROPOSED: dict(values),
            "role": WARM_START,
            "source": source,
        },
    )
