"""Search the parameters of Adaptive Non-uniform Timestep Sampling."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from search_spaces.base import FixedPoint, Range, Suggest, bounds
from search_spaces.learned import LearnedSpace
from stepsearch.strategies import AdaptiveConfig

Whole = tuple[int, int]


class AdaptiveSpace(LearnedSpace):
    """The policy's learning rate and entropy, and how often and from what it learns.

    (arXiv 2411.09998.) The rest is as in the trainer's strategy, or in the strategy's defaults:
    the points with the paper's numbers have its whole recipe where `trainer.strategy` has, as in
    papers/adaptive_cifar10.yaml.
    """

    kind: Literal["adaptive"] = "adaptive"
    lr: Annotated[Range, bounds(1e-6, 1)] = (1e-4, 1e-2)
    """Drawn on a log scale."""
    entropy: Annotated[Range, bounds(1e-6, 10)] = (1e-3, 1e-1)
    """Drawn on a log scale."""
    every: Annotated[Whole, bounds(1, 10_000)] = (20, 200)
    """f_S; drawn on a log scale."""
    queue: Annotated[Whole, bounds(5, 1000)] = (10, 50)
    """|Q|."""
    selected: Annotated[Whole, bounds(1, 50)] = (1, 10)
    """|S|."""

    def parameters(self, trial: Suggest) -> dict[str, Any]:
        return {
            "kind": "adaptive",
            "lr": trial.suggest_float("lr", *self.lr, log=True),
            "entropy": trial.suggest_float("entropy", *self.entropy, log=True),
            "every": trial.suggest_int("every", *self.every, log=True),
            "queue": trial.suggest_int("queue", *self.queue),
            "selected": trial.suggest_int("selected", *self.selected),
        }

    def papers(self) -> list[FixedPoint]:
        same = {"share": 1.0, "entropy": 1e-2, "every": 40, "queue": 20, "selected": 3}
        default = {**same, "lr": 1e-3, "share": _DEFAULT_SHARE}
        return [
            FixedPoint("Adaptive (paper's numbers, ImageNet)", {**same, "lr": 1e-3}),
            FixedPoint("Adaptive (paper's numbers, CIFAR-10)", {**same, "lr": 1e-2}),
            FixedPoint("Adaptive (default numbers)", default),
        ]

    def ranges(self) -> Mapping[str, Range]:
        names = ("lr", "entropy", "every", "queue", "selected")
        return {name: getattr(self, name) for name in names}


_DEFAULT_SHARE = 1 - AdaptiveConfig().floor
