"""CMA-ES that begins at the best trial there is, and not in the middle of the ranges."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

from optuna import Study
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, CmaEsSampler, RandomSampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from stepsearch.study.records import FIXED, PREFIX

START = PREFIX + "start"
"""The study's attribute that names the trial at which CMA-ES began."""


class CmaEsFromTheBest(BaseSampler):
    """Optuna's CMA-ES, its first mean at the best trial that has finished when it begins.

    Most often that is a fixed point, such as a gradient's solution. It begins when `n_startup`
    trials have finished and no fixed point is running any more; until then, and in branches of the
    space, proposals are random. The study keeps where it began, because each trial of the first
    generation is drawn by an optimizer that is made anew.
    """

    def __init__(self, n_startup: int, sigma0: float, seed: int) -> None:
        self._n_startup, self._sigma0, self._seed = n_startup, sigma0, seed
        self._random = RandomSampler(seed=seed)

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        return CmaEsSampler().infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        start = self._start(study) if search_space else None
        if start is None:
            return {}
        x0 = {name: start[name] for name in search_space}
        with warnings.catch_warnings():  # Optuna deprecates x0 and sigma0, until 6
            warnings.simplefilter("ignore", FutureWarning)
            cma_es = CmaEsSampler(
                x0=x0, sigma0=self._sigma0, seed=self._seed, warn_independent_sampling=False
            )
        return cma_es.sample_relative(study, trial, search_space)

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        return self._random.sample_independent(study, trial, param_name, param_distribution)

    def _start(self, study: Study) -> Mapping[str, Any] | None:
        """The parameters that it begins at; None before it begins."""
        trials = study.get_trials(deepcopy=False)
        began: int | None = study.user_attrs.get(START)
        if began is not None:
            return trials[began].params
        best = self._best(trials, study.direction)
        if best is None:
            return None
        study.set_user_attr(START, best.number)
        return best.params

    def _best(self, trials: list[FrozenTrial], direction: StudyDirection) -> FrozenTrial | None:
        """The feasible trial with the best value, or the least infeasible one."""
        if any(t.state is TrialState.RUNNING and FIXED in t.user_attrs for t in trials):
            return None
        finished = [t for t in trials if t.state is TrialState.COMPLETE]
        if len(finished) < self._n_startup:
            return None
        sign = 1 if direction is StudyDirection.MINIMIZE else -1
        return min(finished, key=lambda trial: (_violation(trial), sign * trial.values[0]))


def _violation(trial: FrozenTrial) -> float:
    """By how much a trial breaks its constraints; 0 for a feasible one."""
    return sum(max(value, 0.0) for value in trial.constraints.values())
