"""Strategies that follow each other, by the number of images seen."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from pydantic import Field, field_validator
from torch import Tensor

from stepsearch.config import Config
from stepsearch.errors import UserError
from stepsearch.strategies.base import (
    FloatArray,
    PredictionType,
    Step,
    Strategy,
    StrategyConfig,
    TableStrategy,
)

if TYPE_CHECKING:
    from stepsearch.strategies import AnyStrategy

_RAMP_STEPS = 50
"""Tables that a ramp goes through."""
_DRAWS = {"stratify": True, "lattice": False, "antithetic": False}
"""How TableStrategy draws unless a family says otherwise."""


class PhasedStrategy(Strategy):
    """Goes from strategy to strategy at numbers of images; p and w are those of the one it is at.

    Counts what it draws: the whole batch on every worker, so that all of them switch alike.
    """

    def __init__(self, phases: Sequence[tuple[int, Strategy]]) -> None:
        """(images seen at its first draw, strategy): rising, the first one from 0 on."""
        self._starts = np.array([start for start, _ in phases])
        self._strategies = [strategy for _, strategy in phases]
        self.images_seen = 0
        self._enter()

    def begin(self, shape: tuple[int, ...], generator: torch.Generator) -> None:
        for strategy in self._strategies:
            strategy.begin(shape, generator)

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        self._enter()
        self.images_seen += n
        return self._now.draw(n, generator)

    def draw_for(self, x0: Tensor, generator: torch.Generator) -> Tensor:
        self._enter()
        self.images_seen += len(x0)
        return self._now.draw_for(x0, generator)

    def weights(self, t: Tensor) -> Tensor:
        return self._now.weights(t)

    def marginal(self, n: int) -> FloatArray:
        return self._now.marginal(n)

    @property
    def p(self) -> FloatArray:  # type: ignore[override]
        return self._now.p

    @property
    def w(self) -> FloatArray:  # type: ignore[override]
        return self._now.w

    @property
    def note(self) -> str:
        return "p and w changed during the training; these are the last ones."

    def before_update(self, step: Step) -> None:
        self._now.before_update(step)

    def after_update(self, step: Step) -> None:
        self._now.after_update(step)

    def observe(self, t: Tensor, loss: Tensor) -> None:
        self._now.observe(t, loss)

    def state_dict(self) -> dict[str, Any]:
        state: dict[str, Any] = {"images_seen": torch.tensor(self.images_seen)}
        for i, strategy in enumerate(self._strategies):
            state |= {f"{i}.{key}": value for key, value in strategy.state_dict().items()}
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if "images_seen" not in state:
            raise UserError(f"phase must have a state of images_seen to load, got {sorted(state)}")
        for i, strategy in enumerate(self._strategies):
            mark = f"{i}."
            strategy.load_state_dict(
                {k.removeprefix(mark): v for k, v in state.items() if k.startswith(mark)}
            )
        self.images_seen = int(state["images_seen"])
        self._enter()

    def _enter(self) -> None:
        at = int(np.searchsorted(self._starts, self.images_seen, side="right")) - 1
        self._now = self._strategies[at]


class Phase(Config):
    """One strategy and how long it lasts."""

    strategy: AnyStrategy
    images: int | None = Field(default=None, ge=1)
    """Images that it lasts; none for the last one, which has no end."""
    ramp: bool = False
    """Over its images it turns into the next one, in 50 steps; both must be without state and
    draw alike."""


class PhaseConfig(StrategyConfig):
    """One strategy after another: SpeeD and then uniform, logit-normal and then uniform.

    The last is Curriculum Sampling (arXiv 2603.12517); a ramp from uniform to `clts` is CLTS.
    """

    kind: Literal["phase"] = "phase"
    phases: tuple[Phase, ...] = Field(min_length=2, max_length=100)

    @field_validator("stratify")
    @classmethod
    def _draws_are_the_phases(cls, stratify: bool) -> bool:
        if not stratify:
            raise ValueError("stratify must be given in the strategy of each phase, got False")
        return stratify

    @field_validator("phases")
    @classmethod
    def _only_the_last_has_no_end(cls, phases: tuple[Phase, ...]) -> tuple[Phase, ...]:
        for i, phase in enumerate(phases[:-1]):
            if phase.images is None:
                raise ValueError(f"phases must have images in all but the last, got none in [{i}]")
        if phases[-1].images is not None or phases[-1].ramp:
            raise ValueError("phases must end with one without images and ramp, got one with")
        return phases

    @field_validator("phases")
    @classmethod
    def _ramps_join_equal_draws(cls, phases: tuple[Phase, ...]) -> tuple[Phase, ...]:
        for i, (now, then) in enumerate(pairwise(phases)):
            ours, theirs = (_DRAWS | phase.strategy.draws() for phase in (now, then))
            for name in (name for name in _DRAWS if now.ramp and ours[name] != theirs[name]):
                raise ValueError(
                    f"phases must have the same {name} before and after a ramp, got"
                    f" {ours[name]} in [{i}] and {theirs[name]} in [{i + 1}]"
                )
        return phases

    def density(self, alpha_bar: FloatArray) -> FloatArray:
        """Of the first phase."""
        return self.phases[0].strategy.density(alpha_bar)

    def weight(self, alpha_bar: FloatArray, prediction_type: PredictionType) -> FloatArray:
        """Of the first phase."""
        return self.phases[0].strategy.weight(alpha_bar, prediction_type)

    def build(
        self, alpha_bar: FloatArray, prediction_type: PredictionType = "epsilon"
    ) -> Strategy:
        built = [phase.strategy.build(alpha_bar, prediction_type) for phase in self.phases]
        return PhasedStrategy(list(self._timetable(built)))

    def _timetable(self, built: Sequence[Strategy]) -> Iterator[tuple[int, Strategy]]:
        start = 0
        for phase, (now, then) in zip(self.phases, pairwise(built), strict=False):
            assert phase.images is not None
            if phase.ramp:
                yield from _ramp(now, then, start, phase.images, phase.strategy.draws())
            else:
                yield start, now
            start += phase.images
        yield start, built[-1]


def _ramp(
    now: Strategy, then: Strategy, start: int, images: int, draws: dict[str, bool]
) -> Iterator[tuple[int, TableStrategy]]:
    """Tables from `now` towards `then`, drawn from as both are: p and p w move along straight
    lines."""
    for strategy in (now, then):
        if type(strategy) is not TableStrategy:
            raise UserError(
                f"phase.ramp must join two tables, got {type(strategy).__name__}: "
                "no mirrored strategy and none with state"
            )
    for step in range(_RAMP_STEPS):
        f = step / _RAMP_STEPS
        p = (1 - f) * now.p + f * then.p
        pw = (1 - f) * now.p * now.w + f * then.p * then.w
        w = np.divide(pw, p, out=np.zeros_like(p), where=p > 0)
        yield start + round(f * images), TableStrategy(p, w, **draws)
