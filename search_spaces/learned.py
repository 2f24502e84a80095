"""What the spaces of strategies that learn have in common: the share that they decide."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from search_spaces.base import FixedPoint, Range, SearchSpace, Suggest, bounds
from stepsearch.search.trial import TrainerFacts

Share = Annotated[Range, bounds(0, 1, baseline=0)]


class LearnedSpace(SearchSpace):
    """Spaces with a parameter `share`, how much of the strategy there is: 0 is uniform.

    All parameters are suggested at every point, the baseline too, so that each optuna_sampler
    can learn from all trials.
    """

    share: Share = (0.0, 1.0)
    """Of all draws the part that the strategy decides; the rest stays uniform."""

    @abstractmethod
    def parameters(self, trial: Suggest) -> dict[str, Any]:
        """The strategy without its share: its kind and parameters."""

    @abstractmethod
    def papers(self) -> list[FixedPoint]:
        """Settings of the papers, the first one's parameters also being those of the baseline."""

    @abstractmethod
    def ranges(self) -> Mapping[str, Range]:
        """The range of every parameter but `share`."""

    def of_share(self, share: float) -> dict[str, Any]:
        """The strategy's parameter that a share stands for."""
        return {"floor": 1 - share}

    def suggest(self, trial: Suggest, facts: TrainerFacts) -> dict[str, Any]:
        share = trial.suggest_float("share", *self.share)
        parameters = self.parameters(trial)
        if share == 0:
            return {"strategy": {"kind": "uniform"}}
        return {"strategy": parameters | self.of_share(share)}

    def fixed(self, facts: TrainerFacts) -> list[FixedPoint]:
        papers = self.papers()
        inside = {
            name: min(max(papers[0].params[name], low), high)
            for name, (low, high) in self.ranges().items()
        }
        ranges = {"share": self.share, **self.ranges()}
        uniform = FixedPoint("uniform", {"share": 0.0, **inside})
        return [uniform, *(point for point in papers if point.lies_in(ranges))]


class Prefixed:
    """An Optuna trial of which a family's parameters are called family.parameter."""

    def __init__(self, trial: Suggest, family: str) -> None:
        self._trial, self._prefix = trial, f"{family}."

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        return self._trial.suggest_float(self._prefix + name, low, high, step=step, log=log)

    def suggest_int(
        self, name: str, low: int, high: int, *, step: int = 1, log: bool = False
    ) -> int:
        return self._trial.suggest_int(self._prefix + name, low, high, step=step, log=log)

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        return self._trial.suggest_categorical(self._prefix + name, choices)
