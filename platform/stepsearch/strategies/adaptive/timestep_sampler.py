"""Adaptive Non-uniform Timestep Sampling (Kim et al., CVPR 2025, arXiv 2411.09998)."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from stepsearch.errors import UserError
from stepsearch.strategies.adaptive.policy import BetaPolicy, new_policy
from stepsearch.strategies.adaptive.probe import Probe
from stepsearch.strategies.adaptive.selection import forward_selection, top_correlated
from stepsearch.strategies.adaptive.table import LearnedConfig
from stepsearch.strategies.base import FloatArray, PredictionType, Step, Strategy, read_only
from stepsearch.strategies.draws import InverseCDF, stratified_uniform, uniform
from stepsearch.strategies.levels import beta_cdf
from stepsearch.strategies.weights import VlbConfig

PAPER: dict[str, Any] = {
    "lr": 1e-2,
    "grid": None,
    "probed_images": None,
    "selection": "top",
    "baseline": False,
    "floor": 0.0,
    "channels": (32, 64, 128),
    "hidden": 128,
}
"""What the paper's recipe for CIFAR-10 has different from ours."""

_FIRST = 0.9740870
"""a and b of a new policy: softplus(0.5) + 1e-5."""
_ROWS = 5
"""Rows that the queue needs before timesteps are selected: with fewer all explain its sums."""
_DISCOUNT = 0.9
"""Of the moving mean and variance of the rewards."""


class AdaptiveConfig(LearnedConfig):
    """A policy draws each image's timestep and is rewarded for what the step gained.

    Beta(a, b) by a network on x0 (Algorithm 1); every `every` steps REINFORCE with the decrease
    of the variational bound at a few timesteps as reward, those that best explained its sum in
    a queue of past decreases (Algorithm 2). Defaults differ from the paper's where that costs
    less; `PAPER` is its own recipe.
    """

    kind: Literal["adaptive"] = "adaptive"
    lr: float = Field(default=1e-3, gt=0)
    """Adam's learning rate of the policy."""
    entropy: float = Field(default=1e-2, ge=0)
    """The coefficient of the policy's entropy in its objective."""
    every: int = Field(default=40, ge=1)
    """f_S, training steps between two steps of the policy."""
    queue: int = Field(default=20, ge=5, le=1000)
    """|Q|, rows from which timesteps are selected."""
    selected: int = Field(default=3, ge=1, le=50)
    """|S|, timesteps at which rewards are taken."""
    grid: int | None = Field(default=50, ge=1)
    """Evenly spread timesteps of a row of the queue; none: all T."""
    probed_images: int | None = Field(default=32, ge=1)
    """Images of the batch that the policy learns from; none: all."""
    selection: Literal["forward", "top"] = "forward"
    """Greedy on what is left to explain, or the paper's: the strongest correlations."""
    baseline: bool = True
    """Rewards are taken relative to their moving mean and spread, not as they are."""
    floor: float = Field(default=0.05, ge=0, le=1)
    """The part of all draws that stays uniform, so that no timestep is forgotten; 1 is uniform."""
    channels: tuple[Annotated[int, Field(ge=1, le=1024)], ...] = Field(
        default=(8, 16, 32), min_length=1, max_length=6
    )
    """Of the policy's convolutions, each of which halves the image."""
    hidden: int = Field(default=64, ge=1, le=4096)
    """Units of the policy's two hidden layers."""

    def density(self, alpha_bar: FloatArray) -> FloatArray:
        """Of a policy that has learned nothing."""
        first = np.array([_FIRST])
        return beta_table(first, first, len(alpha_bar), self.floor)

    def build(
        self, alpha_bar: FloatArray, prediction_type: PredictionType = "epsilon"
    ) -> AdaptiveStrategy:
        p, w = self.tables(alpha_bar, prediction_type)
        c = VlbConfig().weight(np.asarray(alpha_bar, dtype=np.float64), prediction_type)
        return AdaptiveStrategy(self, p, w, c)


def beta_table(a: FloatArray, b: FloatArray, T: int, floor: float) -> FloatArray:
    """The mean density of t = round(u (T - 1)) with u ~ Beta(a_i, b_i), mixed with 1 / T."""
    edges = np.clip((np.arange(T + 1) - 0.5) / (T - 1), 0, 1)
    mass = np.diff(beta_cdf(edges, a[:, None], b[:, None])).mean(0)
    return np.asarray((1 - floor) * mass + floor / T)


class AdaptiveStrategy(Strategy):
    """Keeps the policy with its optimizer, the queue, S and the statistics of the rewards.

    p is the mean density over the images of the last batch. A reward that is NaN or infinite
    changes nothing.
    """

    def __init__(
        self, config: AdaptiveConfig, p: FloatArray, w: FloatArray, coefficients: FloatArray
    ) -> None:
        self.config, self.T = config, len(p)
        self.w = read_only(w)
        self._first = read_only(p)
        self._weights = torch.from_numpy(w.astype(np.float32))
        self._coefficients = torch.from_numpy(coefficients)
        self._grid = _evenly(min(config.grid or self.T, self.T), self.T)
        self._state = {
            "queue": torch.zeros(0, len(self._grid), dtype=torch.float64),
            "selected": _evenly(min(config.selected, len(self._grid)), self.T),
            "rewards": torch.tensor([torch.nan, torch.nan], dtype=torch.float64),
            "last": torch.zeros(0, 2),
        }
        self._policy: BetaPolicy | None = None
        self._probe: Probe | None = None

    # --- drawing

    def begin(self, shape: tuple[int, ...], generator: torch.Generator) -> None:
        config = self.config
        self._policy = new_policy(shape, config.channels, config.hidden, generator)
        self._optimizer = torch.optim.Adam(self._policy.parameters(), lr=config.lr)
        for name in ("_weights", "_coefficients", "_grid"):
            setattr(self, name, getattr(self, name).to(generator.device))

    @property
    def p(self) -> FloatArray:  # type: ignore[override]
        if not len(self._state["last"]):
            return self._first
        a, b = self._state["last"].double().cpu().numpy().T
        return read_only(beta_table(a, b, self.T, self.config.floor))

    @property
    def note(self) -> str:
        return (
            "Every image had timesteps of its own, drawn by a policy that learned during the"
            " training and is not part of this file: p is their mean density over the images of"
            " the last batch."
        )

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """Timesteps for images that nobody has seen: from p."""
        return InverseCDF(self.p, stratify=self.config.stratify).draw(n, generator)

    def draw_for(self, x0: Tensor, generator: torch.Generator) -> Tensor:
        from scipy.special import betaincinv

        with torch.no_grad():
            a, b = self._trained()(x0)
        self._state["last"] = torch.stack([a, b], 1)
        source = stratified_uniform if self.config.stratify else uniform
        v, floor = source(len(x0), generator).cpu().numpy(), self.config.floor
        # one uniform says both whether the policy draws and what
        free, drawn = v / max(floor, 1e-300), np.maximum(v - floor, 0) / max(1 - floor, 1e-300)
        a, b = (x.double().cpu().numpy() for x in (a, b))
        t = np.rint(betaincinv(a, b, drawn) * (self.T - 1))
        t = np.where(v < floor, np.floor(np.minimum(free, 1) * self.T), t)
        return torch.from_numpy(t).long().clamp_(0, self.T - 1).to(x0.device)

    def weights(self, t: Tensor) -> Tensor:
        return self._weights.to(t.device)[t]

    # --- learning

    def before_update(self, step: Step) -> None:
        if step.number % self.config.every == 0:
            images = self.config.probed_images or len(step.x0)
            selected = self._state["selected"].to(step.x0.device)
            self._probe = Probe(step, self._grid, selected, images, self._coefficients)

    def after_update(self, step: Step) -> None:
        if self._probe is None:
            return
        row, rewards = self._probe.decrease(step)
        self._probe = None
        if bool(row.isfinite().all() & rewards.isfinite().all()):
            self._improve(step.x0[: len(rewards)], step.t[: len(rewards)], rewards)
            self._select(row)

    def _improve(self, x0: Tensor, t: Tensor, rewards: Tensor) -> None:
        """One step of REINFORCE on -mean(log pi(t) A) - c H."""
        policy = self._trained()
        a, b = policy(x0)
        log_pi, entropy = self._log_density(a, b, t)
        gain = (log_pi * self._advantage(rewards).to(a.dtype)).mean()
        loss = -gain - self.config.entropy * entropy.mean()
        self._optimizer.zero_grad()
        torch.autograd.backward(loss)
        clip_grad_norm_(policy.parameters(), 1.0)
        self._optimizer.step()

    def _log_density(self, a: Tensor, b: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """ln pi(t) over t / (T - 1), the floor included, and the entropy of the Beta in it."""
        beta: Any = torch.distributions.Beta(a, b, validate_args=False)
        u = (t / (self.T - 1)).clamp(1e-4, 1 - 1e-4).to(a.dtype)
        floor = self.config.floor
        return ((1 - floor) * beta.log_prob(u).exp() + floor).log(), beta.entropy()

    def _advantage(self, rewards: Tensor) -> Tensor:
        """(R - mean) / std with the moving ones, at most 5 either way."""
        if not self.config.baseline:
            return rewards
        now = torch.stack([rewards.mean(), rewards.var(correction=0)])
        before = self._state["rewards"].to(rewards.device)
        kept = torch.where(before.isnan(), now, before)
        self._state["rewards"] = _DISCOUNT * kept + (1 - _DISCOUNT) * now
        mean, variance = self._state["rewards"]
        advantage: Tensor = (rewards - mean) / (variance.sqrt() + 1e-8)
        return advantage.clamp(-5, 5)

    def _select(self, row: Tensor) -> None:
        """Push a row; S for the next reward from all rows but those in which nothing changed."""
        queue = torch.cat([self._state["queue"], row[None].cpu()])[-self.config.queue :]
        self._state["queue"] = queue
        rows = queue[queue.any(1)]
        if len(rows) >= _ROWS:
            select = {"forward": forward_selection, "top": top_correlated}[self.config.selection]
            self._state["selected"] = self._grid.cpu()[select(rows, self.config.selected)]

    def _trained(self) -> BetaPolicy:
        if self._policy is None:
            raise ValueError("begin must come before the first draw for images")
        return self._policy

    # --- checkpoints

    def state_dict(self) -> dict[str, Any]:
        if self._policy is None:
            return {}
        policy = {f"policy.{name}": value for name, value in self._policy.state_dict().items()}
        return {**self._state, **policy, "optimizer": self._optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        expected = self.state_dict()
        if state.keys() != expected.keys():
            raise UserError(
                f"adaptive must have a state of {sorted(expected)} to load, got {sorted(state)}"
            )
        if self._policy is None:
            return
        policy = {name: state[f"policy.{name}"] for name in self._policy.state_dict()}
        self._policy.load_state_dict(policy)
        self._optimizer.load_state_dict(state["optimizer"])
        self._state = {name: state[name] for name in self._state}


def _evenly(count: int, T: int) -> Tensor:
    """`count` timesteps, each in the middle of its part of 0..T-1."""
    return ((torch.arange(count) + 0.5) * T / count).long()
