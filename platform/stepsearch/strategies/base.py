"""What a timestep strategy is: a density p over the timesteps and a weight w on the loss.

A strategy sees a noise process only through T and alpha_bar := SNR / (1 + SNR), in [0, 1) and
falling with t. For a variance-preserving process this is its own alpha_bar; for others it is the
share of the signal in the variance of x_t, e.g. 1 / (1 + sigma^2) for EDM. So every table strategy
works on every process, and two processes are alike where their alpha_bar, or log-SNR, is.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from stepsearch.config import Config
from stepsearch.errors import UserError
from stepsearch.strategies.draws import InverseCDF

FloatArray = npt.NDArray[np.float64]
PredictionType = Literal["epsilon", "v_prediction", "sample", "flow", "edm"]
"""A denoiser's target: eps, v, x0, the velocity eps - x0 of rectified flow, EDM's F."""

SIGMA_DATA = 0.5
"""The images' standard deviation by which EDM preconditions; 0.5 in all of its models."""


class Step(Protocol):
    """One step of training, for a strategy that learns; all workers see the same.

    The workers share the work of a method, so all of them must call it.
    """

    number: int
    """Steps before this one."""
    progress: float
    """The part of the budget that was spent before this step, in [0, 1)."""
    x0: Tensor
    """The clean images of the whole batch, [n, C, H, W]."""
    t: Tensor
    """Their timesteps, int64 [n]."""
    generator: torch.Generator
    """The training's own; what it draws is the same after a resume."""

    def losses(self) -> Tensor:
        """The unweighted losses of the whole batch, [n]; known after the update."""

    def evaluate(self, rows: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """The losses of the batch's images `rows`, int64 [m], under the weights of this moment,
        [m]; dropout is off."""

    def gradient(self, rows: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """The gradient of the mean loss of these images as one vector; dropout is off."""


class Strategy(ABC):
    """How one training run draws and weighs its timesteps.

    t is 0-based and t = 0 is the least noisy. The expected gradient of the loss is
    proportional to sum_t p_t w_t grad L_t, with L_t the mean squared error of the
    denoiser's own target.
    """

    p: FloatArray
    """Density over the T timesteps; sums to 1."""
    w: FloatArray
    """Weight on the per-sample loss; finite, w >= 0."""

    @abstractmethod
    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """n timesteps (int64) on the generator's device."""

    @abstractmethod
    def weights(self, t: Tensor) -> Tensor:
        """w at `t`: float32, of t's shape and on its device."""

    def marginal(self, n: int) -> FloatArray:
        """The density of one draw in a batch of n; p, unless the draws depend on each other."""
        return self.p

    @property
    def note(self) -> str:
        """What else to know of p and w before they are used as tables."""
        return ""

    # The rest is for the few that learn, on every worker alike.

    def begin(self, shape: tuple[int, ...], generator: torch.Generator) -> None:  # noqa: B027
        """Before anything else of a training on images of `shape` (C, H, W)."""

    def draw_for(self, x0: Tensor, generator: torch.Generator) -> Tensor:
        """Timesteps for these images."""
        return self.draw(len(x0), generator)

    def before_update(self, step: Step) -> None:  # noqa: B027
        """The weights are about to change."""

    def after_update(self, step: Step) -> None:  # noqa: B027
        """The weights have changed by `step`."""

    def observe(self, t: Tensor, loss: Tensor) -> None:  # noqa: B027
        """Learn from the unweighted loss of every sample of a batch; both have shape [n].

        Called by the `after_update` of strategies that learn from nothing else.
        """

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint must hold to go on from here: tensors and plain values."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""
        if state:
            raise UserError(f"{type(self).__name__} has no state to load, got {sorted(state)}")


class TableStrategy(Strategy):
    """A strategy that never changes: independent draws from a table p, weights from a table w."""

    def __init__(
        self,
        p: FloatArray,
        w: FloatArray,
        *,
        stratify: bool = True,
        lattice: bool = False,
        antithetic: bool = False,
    ) -> None:
        self.p = read_only(p)
        self.w = read_only(w)
        self._inverse_cdf = InverseCDF(
            p, stratify=stratify, lattice=lattice, antithetic=antithetic
        )
        self._weights = torch.from_numpy(w.astype(np.float32))

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        return self._inverse_cdf.draw(n, generator)

    def weights(self, t: Tensor) -> Tensor:
        if self._weights.device != t.device:
            self._weights = self._weights.to(t.device)
        return self._weights[t]


class StrategyConfig(Config):
    """The parameters of one family of strategies; `build` makes it concrete for a process.

    `alpha_bar` is the signal level abar of the T timesteps: values in [0, 1), falling.
    """

    kind: str
    stratify: bool = True
    """One stratified uniform per batch (k-diffusion): same marginals, less gradient variance."""

    def density(self, alpha_bar: FloatArray) -> FloatArray:
        """p, uniform unless the family says otherwise."""
        return np.full(len(alpha_bar), 1 / len(alpha_bar))

    @abstractmethod
    def weight(self, alpha_bar: FloatArray, prediction_type: PredictionType) -> FloatArray:
        """w on the mean squared error of the denoiser's own target."""

    def build(
        self, alpha_bar: FloatArray, prediction_type: PredictionType = "epsilon"
    ) -> Strategy:
        """The strategy on the process `alpha_bar` for a denoiser that predicts `prediction_type`.

        Raises UserError when a parameter does not fit the process.
        """
        p, w = self.tables(alpha_bar, prediction_type)
        return TableStrategy(p, w, **self.draws())

    def draws(self) -> dict[str, bool]:
        """How TableStrategy draws from p."""
        return {"stratify": self.stratify}

    def tables(
        self, alpha_bar: FloatArray, prediction_type: PredictionType
    ) -> tuple[FloatArray, FloatArray]:
        """p and w, checked: finite, not negative, and p sums to 1."""
        alpha_bar = np.asarray(alpha_bar, dtype=np.float64)
        low, high = alpha_bar.min(), alpha_bar.max()
        if not 0 <= low <= high < 1:
            raise UserError(f"alpha_bar must be in [0, 1), got {low}..{high}")
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            p = self.density(alpha_bar)
            w = self.weight(alpha_bar, prediction_type)
        valid_p = np.all(p >= 0) and np.isclose(p.sum(), 1, rtol=0, atol=1e-6)
        valid_w = np.all(w >= 0) and np.all(np.isfinite(w))
        if not (valid_p and valid_w):
            raise UserError(f"strategy must give finite p and w on this process, got {self!r}")
        return p, w


def from_epsilon(
    w: FloatArray, alpha_bar: FloatArray, prediction_type: PredictionType
) -> FloatArray:
    """Carry a weight on the eps-loss, as most papers give it, to the loss of another target.

    ||eps - eps^||^2 = SNR ||x0 - x0^||^2 and ||v - v^||^2 = (SNR + 1) ||x0 - x0^||^2, hence
    w_v = w_eps SNR / (SNR + 1) = w_eps abar and w_x0 = w_eps SNR; for others see `x0_errors`.
    """
    if prediction_type == "epsilon":
        return w
    if prediction_type == "v_prediction":
        return w * alpha_bar
    if prediction_type == "sample":
        return w * snr(alpha_bar)
    return w * snr(alpha_bar) / x0_errors(alpha_bar, prediction_type)


def x0_errors(alpha_bar: FloatArray, prediction_type: PredictionType) -> FloatArray:
    """||y - y^||^2 / ||x0 - x0^||^2 for a denoiser's target y and the image that it stands for.

    SNR for eps, SNR + 1 for v, 1 for x0, (1 + sqrt(SNR))^2 for the velocity eps - x0, and
    SNR + 1 / sigma_data^2 = 1 / c_out^2 for EDM's F: weight 1 on F is EDM's lambda(sigma) on x0.
    """
    errors = {
        "epsilon": snr(alpha_bar),
        "v_prediction": snr(alpha_bar) + 1,
        "sample": np.ones_like(alpha_bar),
        "flow": (1 + np.sqrt(snr(alpha_bar))) ** 2,
        "edm": snr(alpha_bar) + SIGMA_DATA**-2,
    }
    return errors[prediction_type]


def snr(alpha_bar: FloatArray) -> FloatArray:
    """The signal-to-noise ratio abar / (1 - abar)."""
    return alpha_bar / (1 - alpha_bar)


def read_only(table: npt.ArrayLike) -> FloatArray:
    """A copy that nobody can change by accident."""
    copy = np.array(table, dtype=np.float64)
    copy.setflags(write=False)
    return copy
