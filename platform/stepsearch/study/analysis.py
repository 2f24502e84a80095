"""What finished trials say together: the Pareto front and the parameters' importance."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import optuna
from optuna.trial import FrozenTrial

from stepsearch.study.records import Direction

MIN_TRIALS = 10  # PED-ANOVA sets the best tenth against all: of fewer trials, not even one


def pareto(trials: Sequence[FrozenTrial], directions: Sequence[Direction]) -> list[FrozenTrial]:
    """The feasible trials that no other feasible one beats in every objective."""
    return [trials[t.number] for t in _study_of(trials, directions).best_trials]


def importance(trials: Sequence[FrozenTrial], directions: Sequence[Direction]) -> dict[str, float]:
    """Each parameter's share in being among the best tenth; sums to 1, largest first.

    Conditional PED-ANOVA (Watanabe et al. 2023, arXiv:2304.10255; arXiv:2601.20800). Empty with
    fewer than ten trials.
    """
    if len(trials) < MIN_TRIALS:
        return {}
    with warnings.catch_warnings():
        # Said for each branch of a conditional space that few trials have visited.
        warnings.simplefilter("ignore", UserWarning)
        return optuna.importance.get_param_importances(_study_of(trials, directions))


def _study_of(trials: Sequence[FrozenTrial], directions: Sequence[Direction]) -> optuna.Study:
    study = optuna.create_study(directions=list(directions))
    study.add_trials(trials)
    return study
