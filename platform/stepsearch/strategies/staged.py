"""A strategy inside each stage of a multi-stage denoiser, all stages trained alike."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from stepsearch.errors import UserError
from stepsearch.strategies.base import (
    FloatArray,
    PredictionType,
    Strategy,
    StrategyConfig,
    TableStrategy,
)
from stepsearch.strategies.draws import InverseCDF


class StagedStrategy(TableStrategy):
    """Draws from p inside each of n stages in turn and gives every stage the same weight.

    With p_k the density p inside stage k, its sum there made 1, p becomes p_k / n, and w becomes
    w / sum_t p_k w, so that the mean weight of a draw is 1 in every stage: the multi-stage paper's
    "same iterations and loss weight". Image i of a batch is of stage i mod n; where n does not
    divide the batch, of stage (i + r) mod n with r drawn for each batch.
    """

    def __init__(self, strategy: TableStrategy, starts: Sequence[int], **draws: bool) -> None:
        """Stage k + 1 begins at timestep starts[k]. Raises UserError where a stage has none that
        is drawn with a weight above 0."""
        self._starts = (0, *starts)
        edges = (*self._starts, len(strategy.p))
        p, w = np.zeros_like(strategy.p), np.zeros_like(strategy.w)
        self._stages = []
        for first, last in pairwise(edges):
            inside = slice(first, last)
            if not strategy.p[inside] @ strategy.w[inside] > 0:
                raise UserError(
                    f"strategy must draw and weigh some timesteps of every stage, got none in"
                    f" {first}..{last - 1}"
                )
            own = np.zeros_like(strategy.p)
            own[inside] = strategy.p[inside] / strategy.p[inside].sum()
            w[inside] = strategy.w[inside] / (own @ strategy.w)
            p += own / len(self._starts)
            self._stages.append(InverseCDF(own, **draws))
        super().__init__(p, w, **draws)

    @property
    def note(self) -> str:
        starts = ", ".join(str(start) for start in self._starts)
        return (
            "p and w are the strategy's inside each stage of the denoiser: the stages begin at"
            f" timesteps {starts} and all have the same share of draws and the same weight."
        )

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        stages, turn = len(self._stages), 0
        if n % stages:
            drawn = torch.randint(stages, (1,), generator=generator, device=generator.device)
            turn = int(drawn)
        t = torch.empty(n, dtype=torch.int64, device=generator.device)
        for k, inside in enumerate(self._stages):
            own = t[(k - turn) % stages :: stages]
            own.copy_(inside.draw(len(own), generator))
        return t


def build_staged(
    config: StrategyConfig,
    alpha_bar: FloatArray,
    prediction_type: PredictionType,
    starts: Sequence[int],
) -> Strategy:
    """The strategy, inside each stage where there are any.

    Raises UserError for a strategy that is no pair of fixed tables.
    """
    built = config.build(alpha_bar, prediction_type)
    if not starts:
        return built
    if type(built) is not TableStrategy:
        raise UserError(
            "strategy must have a fixed p and w, without mirror, for a denoiser with stages,"
            f" got {config.kind!r}"
        )
    return StagedStrategy(built, starts, **config.draws())
