"""Tables that change during training: what the strategies that learn p or w from losses share."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import numpy as np
import torch
from pydantic import field_validator
from torch import Tensor

from stepsearch.errors import UserError
from stepsearch.strategies.base import (
    FloatArray,
    PredictionType,
    Step,
    Strategy,
    StrategyConfig,
    read_only,
)
from stepsearch.strategies.densities import UniformConfig
from stepsearch.strategies.draws import stratified_uniform, uniform
from stepsearch.strategies.weights import AnyWeight


class LearnedStrategy(Strategy):
    """p and w follow from `state`, tensors that `observe` replaces.

    Everything stays on the training's device and nothing waits for it. A loss that is NaN or
    infinite teaches nothing.
    """

    def __init__(
        self,
        config: LearnedConfig,
        w: FloatArray,
        state: dict[str, Tensor],
        *,
        floor: float = 0.0,
    ) -> None:
        """`w` is that of the config's own w; of all draws the part `floor` stays uniform."""
        self.config, self.state, self.floor = config, state, floor
        self.T = len(w)
        self.base_weight = torch.from_numpy(np.array(w))
        """That w, float64 [T]."""
        self._device = torch.device("cpu")
        self._refresh()

    @abstractmethod
    def density(self) -> Tensor:
        """The learned p before the floor, float64 [T]; any positive scale, uniform at first."""

    def weight(self, p: Tensor) -> Tensor:
        """w to go with the density `p`, float64 [T]."""
        return self.base_weight

    @property
    def p(self) -> FloatArray:  # type: ignore[override]
        return read_only(self._p.cpu().numpy())

    @property
    def w(self) -> FloatArray:  # type: ignore[override]
        return read_only(self._w.cpu().numpy())

    @property
    def note(self) -> str:
        return "p and w changed during the training; these are the last ones."

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        u = stratified_uniform(n, generator) if self.config.stratify else uniform(n, generator)
        return torch.searchsorted(self._cdf, u, right=True)

    def weights(self, t: Tensor) -> Tensor:
        return self._w[t].float()

    def begin(self, shape: tuple[int, ...], generator: torch.Generator) -> None:
        self._device = generator.device
        self._move(self.state)

    def after_update(self, step: Step) -> None:
        self.observe(step.t, step.losses())

    def observe(self, t: Tensor, loss: Tensor) -> None:
        self.learn(t, loss.double())
        self._refresh()

    def learn(self, t: Tensor, loss: Tensor) -> None:
        """Change `state`; t [n] and the unweighted losses [n], float64, perhaps not finite."""

    def state_dict(self) -> dict[str, Any]:
        return dict(self.state)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        shapes = {name: tensor.shape for name, tensor in self.state.items()}
        found = {name: getattr(value, "shape", None) for name, value in state.items()}
        if found != shapes:
            raise UserError(
                f"{self.config.kind} must have a state of {sorted(shapes)} with the same"
                f" shapes to load, got {sorted(found)}"
            )
        self._move(state)

    def _move(self, state: dict[str, Tensor]) -> None:
        self.state = {name: tensor.to(self._device) for name, tensor in state.items()}
        self.base_weight = self.base_weight.to(self._device)
        self.moved()
        self._refresh()

    def moved(self) -> None:
        """Move constants to the device of `base_weight`."""

    def _refresh(self) -> None:
        """p, its running sum and w, from the state."""
        learned = self.density()
        self._p = (1 - self.floor) * learned / learned.sum() + self.floor / self.T
        self._cdf = self._p.cumsum(0)
        self._cdf[-1] = 1.0
        self._w = self.weight(self._p)


class LearnedConfig(StrategyConfig):
    """The parameters of a strategy that learns, with any weight beside it."""

    w: AnyWeight = UniformConfig()
    """The family that weighs, as in `compose`."""

    @field_validator("w")
    @classmethod
    def _draws_are_the_strategys(cls, w: Any, info: Any) -> Any:
        if not w.stratify:
            kind = info.data["kind"]
            raise ValueError(f"w.stratify must be given as {kind}.stratify, got False")
        return w

    def weight(self, alpha_bar: FloatArray, prediction_type: PredictionType) -> FloatArray:
        return self.w.weight(alpha_bar, prediction_type)
