"""Solvers: samplers one network evaluation at a time, whose states nobody changes."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stepsearch.sampling.timetuner.trajectories import Knots
from stepsearch.sampling.timetuner.tuned_timesteps import place
from stepsearch.strategies.base import FloatArray

Noise = torch.Generator | list[torch.Generator] | None

# What a scheduler's class does that its interface does not say.
_EVALUATIONS_BEFORE: dict[str, Callable[[int, Any], int]] = {
    "HeunDiscreteScheduler": lambda slot, _: slot % 2,  # the corrector belongs to its predictor
    "DPMSolverSinglestepScheduler": lambda slot, _: slot % 2,
    "DPMSolverMultistepScheduler": lambda slot, config: min(slot, config.solver_order - 1),
    "UniPCMultistepScheduler": lambda slot, _: min(slot, 2),
}
_UNSCALED = ("EulerDiscreteScheduler", "HeunDiscreteScheduler", "CMStochasticIterativeScheduler")
"""Their state is x0 + sigma eps; that of the others is alpha x0 + sigma eps."""


@dataclass(frozen=True)
class State:
    """Before the evaluation `slot`: the sampler's x [N, C, H, W] and what it remembers."""

    x: Tensor
    slot: int
    memory: Any
    """A scheduler, which nobody steps but a copy of it."""
    labels: Tensor | None = None
    """The classes of x [N], where the network is told them."""


class Solver:
    """A diffusers scheduler with its knots; every evaluation of the network is one slot of tau."""

    def __init__(
        self,
        scheduler: Any,
        found: Knots,
        prediction_type: str,
        alpha_bar: FloatArray,
        *,
        eta: float = 0.0,
    ) -> None:
        """`scheduler` is taken over: it is set to the knots' timesteps and noise levels."""
        self.scheduler, self.prediction_type = scheduler, prediction_type
        self._name = type(scheduler).__name__
        self.num_steps = len(found.times)
        self.levels: tuple[float, ...] = tuple(found.sigmas.tolist())
        """[K + 1] noise levels of the steps, and the one after them."""
        order = np.arange(self.num_steps)
        if self._name == "HeunDiscreteScheduler":
            order = np.repeat(order, 2)[1:]
        self.times = torch.tensor(found.times[order], dtype=torch.float32)
        """[S], what the network is told untuned."""
        levels = np.append(found.sigmas[order], found.sigmas[-1])
        self._by_index = hasattr(scheduler, "set_begin_index")
        self.sigmas: list[float] | None = None
        """[S + 1] noise levels that the scheduler is given; None for one that looks t up."""
        if self._by_index:
            self.sigmas = levels.astype(np.float32).tolist()
        place(scheduler, self.as_schedule())
        self._begins_at = float(scheduler.init_noise_sigma)
        self.scales: list[tuple[Any, Any]] = [
            (1 / (1 + s * s) ** 0.5, s / (1 + s * s) ** 0.5) for s in levels.tolist()
        ]
        """[S + 1] pairs alpha, sigma at the nominal times and at the end."""
        log_sigma = np.log(1 / np.asarray(alpha_bar) - 1) / 2
        self._log_sigma = torch.tensor(log_sigma, dtype=torch.float32)
        takes = inspect.signature(scheduler.step).parameters
        self._takes_noise = "generator" in takes
        self._options = {"eta": eta} if "eta" in takes else {}

    def as_schedule(self) -> dict[str, Any]:
        """What `place` needs to set a scheduler's steps as they are here."""
        return {
            "num_steps": self.num_steps,
            "nfe": self.nfe,
            "timesteps": self.times.tolist(),
            "sigmas": self.sigmas,
        }

    @property
    def nfe(self) -> int:
        """S, the number of slots."""
        return len(self.times)

    @property
    def noisiest(self) -> tuple[float, float]:
        """alpha and sigma of the process's last timestep, from about which sampling starts."""
        alpha, sigma = self.scales_at(torch.tensor(self.top))
        return float(alpha), float(sigma)

    @property
    def end(self) -> Tensor:
        """The time that the network is told after the last step: the least noisy one."""
        return torch.zeros(())

    @property
    def top(self) -> float:
        """The noisiest timestep."""
        return len(self._log_sigma) - 1.0

    def told(self, slot: int, rho: Tensor) -> Tensor:
        """tau for the ratio rho of the continuous time (t + 1) / T; exactly t for rho = 1.

        Never below the least noisy timestep, nor above the noisiest.
        """
        t = self.times[slot].to(rho)
        return (t + (rho - 1) * (t + 1)).clamp(0, self.top)

    def moved(self, times: Tensor) -> Solver:
        """This solver at other times [S], whose noise levels gradients pass through.

        It begins and ends where it did, and is to draw images with. Only for a scheduler that is
        given its levels.
        """
        assert self.sigmas is not None
        found = copy.copy(self)
        found.times = times.detach()
        alpha, sigma = self.scales_at(times)
        found.scales = [*zip(alpha, sigma, strict=True), self.scales[-1]]
        found.scheduler = _copy(self.scheduler)
        found.scheduler.sigmas = torch.cat([sigma / alpha, torch.tensor(self.sigmas[-1:])])
        return found

    def start(self, x: Tensor) -> State:
        """From x [N, C, H, W], about N(0, I)."""
        return State(x * self._begins_at, 0, self._memory(0))

    def noised(self, slot: int, x0: Tensor, noise: Tensor) -> State:
        """A clean image noised to where the evaluation `slot` begins.

        The state is at an earlier slot where the solver's step depends on evaluations before.
        """
        if self._name in _EVALUATIONS_BEFORE:
            slot -= _EVALUATIONS_BEFORE[self._name](slot, self.scheduler.config)
        alpha, sigma = self.scales[slot]
        scale = 1 / alpha if self._name in _UNSCALED else 1
        return State(scale * (alpha * x0 + sigma * noise), slot, self._memory(slot))

    def look(self, state: State) -> Tensor:
        """What the network sees."""
        seen: Tensor = state.memory.scale_model_input(state.x, None)
        return seen

    def advance(self, state: State, output: Tensor, noise: Noise = None) -> State:
        """The state after a network's output; random steps draw from `noise`."""
        memory = _copy(state.memory)
        options = self._options | ({"generator": noise} if self._takes_noise else {})
        time = self.times[state.slot]
        x = memory.step(output, time if self._by_index else int(time), state.x, **options)
        return State(x.prev_sample, state.slot + 1, memory, state.labels)

    def eps(self, slot: int, x: Tensor, output: Tensor) -> Tensor:
        """The noise that an output stands for; x is what the network saw; slot S is the end."""
        if self.prediction_type == "epsilon":
            return output
        alpha, sigma = self.scales[slot]
        if sigma == 0:
            alpha, sigma = map(float, self.scales_at(self.end))
        eps: Tensor = alpha * output + sigma * x
        if self.prediction_type == "sample":
            eps = (x - alpha * output) / sigma
        return eps

    def scales_at(self, tau: Tensor) -> tuple[Tensor, Tensor]:
        """alpha and sigma at a timestep between the T discrete ones, differentiable in tau.

        log SNR is linear between them.
        """
        table = self._log_sigma.to(tau.device)
        low = tau.detach().floor().long().clamp(0, len(table) - 2)
        log_sigma = table[low] + (tau - low) * (table[low + 1] - table[low])
        alpha: Tensor = torch.sigmoid(-2 * log_sigma).sqrt()
        sigma: Tensor = torch.sigmoid(2 * log_sigma).sqrt()
        return alpha, sigma

    def _memory(self, slot: int) -> Any:
        memory = _copy(self.scheduler)
        if self._by_index:
            memory._step_index = slot
        return memory


def _copy(scheduler: Any) -> Any:
    """A scheduler that can be stepped without changing this one; tensors are shared."""
    copied = copy.copy(scheduler)
    for name, value in vars(scheduler).items():
        if isinstance(value, list):
            setattr(copied, name, list(value))
    return copied
