"""Networks and a solver that are known exactly: what TimeTuner's reference numbers are for."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import Tensor

from stepsearch.diffusion.noise import VPConfig
from stepsearch.sampling.timetuner.solver import State


def alpha(t: Tensor | float) -> Any:
    """The continuous VP process with beta 0.1..20."""
    t = torch.as_tensor(t, dtype=torch.float64)
    return torch.exp(-(t**2) * 19.9 / 4 - 0.05 * t)


def sigma(t: Tensor | float) -> Any:
    return torch.sqrt(1 - alpha(t) ** 2)


@dataclass(frozen=True)
class Continuous:
    """Eq. 7 in float64, on the times t_K > ... > t_0: the solver of the reference numbers."""

    grid: Tensor
    """[K + 1], the last is where sampling ends."""
    noisiest = (float(alpha(1.0)), float(sigma(1.0)))
    top = 1.0

    @property
    def times(self) -> Tensor:
        return self.grid[:-1]

    @property
    def end(self) -> Tensor:
        return self.grid[-1]

    @property
    def nfe(self) -> int:
        return len(self.grid) - 1

    def told(self, slot: int, rho: Tensor) -> Tensor:
        return (rho * self.grid[slot]).clamp(1e-3, 1)

    def start(self, x: Tensor) -> State:
        return State(x, 0, None)

    def noised(self, slot: int, x0: Tensor, noise: Tensor) -> State:
        t = self.grid[slot]
        return State(alpha(t) * x0 + sigma(t) * noise, slot, None)

    def look(self, state: State) -> Tensor:
        return state.x

    def advance(self, state: State, output: Tensor, noise: Any = None) -> State:
        t, s = self.grid[state.slot], self.grid[state.slot + 1]
        a, b = alpha(s) / alpha(t), alpha(s) * sigma(t) / alpha(t) - sigma(s)
        return State(a * state.x - b * output, state.slot + 1, None)

    def eps(self, slot: int, x: Tensor, output: Tensor) -> Tensor:
        return output


def beside(t: Tensor, x: Tensor) -> Tensor:
    """One time, or one for each image, in a shape that multiplies x."""
    return t.reshape(-1, *[1] * (x.ndim - 1))


def gaussian(variance: float) -> Any:
    """The network of data N(0, s^2 I): eps(x, t) = sigma / (alpha^2 s^2 + sigma^2) x."""

    def run(x: Tensor, t: Tensor, nominal: Tensor) -> Tensor:
        t = beside(t, x)
        return x * sigma(t) / (alpha(t) ** 2 * variance + sigma(t) ** 2)

    return run


def rippled(by: float) -> Any:
    """The network of data N(0, 1/16 I) on the T timesteps, as one sees t that sees it in sines."""
    alpha_bar = torch.tensor(VPConfig().build().alpha_bar)
    log_sigma = (1 / alpha_bar - 1).log() / 2

    def run(x: Tensor, t: Tensor, nominal: Tensor) -> Tensor:
        t = beside(t, x)
        low = t.detach().long().clamp(0, 998)
        noise = torch.sigmoid(2 * (log_sigma[low] + (t - low) * log_sigma.diff()[low]))
        eps: Tensor = x * noise.sqrt() / ((1 - noise) / 16 + noise)
        return eps * (1 + by * torch.sin(t))

    return run


DIGITS = torch.tensor(load_digits().data / 8 - 1)


def digits(x: Tensor, t: Tensor, nominal: Tensor) -> Tensor:
    """The optimal network of the digits: eps* = (x / alpha - E[y | x]) alpha / sigma."""
    t = beside(t, x)
    level = sigma(t) / alpha(t)
    scaled = x / alpha(t)
    score = (scaled @ DIGITS.T - DIGITS.square().sum(1) / 2) / level**2
    return (scaled - torch.softmax(score, 1) @ DIGITS) / level


def waves(n: int) -> Tensor:
    """Noise without a generator: z[k, j] = sqrt 2 sin(1.7 (k + 1)(j + 1) + 0.3 k)."""
    k, j = torch.arange(n, dtype=torch.float64)[:, None], torch.arange(64, dtype=torch.float64)
    return math.sqrt(2) * torch.sin(1.7 * (k + 1) * (j + 1) + 0.3 * k)
