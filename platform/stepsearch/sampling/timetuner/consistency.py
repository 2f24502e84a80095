"""Consistency models: multistep sampling (Song et al. 2023, algorithm 1), with tau."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from stepsearch.errors import UserError
from stepsearch.sampling.timetuner.solver import Solver
from stepsearch.sampling.timetuner.trajectories import Knots


class ConsistencySolver(Solver):
    """x <- f(x, tau) + sqrt(sigma'^2 - sigma_min^2) z, with f the consistency function.

    The network is told 250 log sigma, so that a ratio rho of sigma is a sum there. f(x, sigma_min)
    is x, whatever the network: the last step has no eq. 9.
    """

    def __init__(self, scheduler: Any, num_steps: int) -> None:
        """`scheduler` is diffusers' CMStochasticIterativeScheduler."""
        config = scheduler.config
        ramp = np.linspace(0, 1, num_steps) if num_steps > 1 else np.zeros(1)
        low, high = (s ** (1 / config.rho) for s in (config.sigma_min, config.sigma_max))
        # the last knot lies above sigma_min, where f is the identity
        sigmas = (high + ramp * num_steps / (num_steps + 1) * (low - high)) ** config.rho
        found = Knots(scheduler.sigma_to_t(sigmas), np.append(sigmas, config.sigma_min))
        super().__init__(scheduler, found, "sample", np.array([0.9, 0.1]))

    @property
    def noisiest(self) -> tuple[float, float]:
        """In units of the highest sigma, which `start` multiplies with."""
        return 1 / self.scheduler.config.sigma_max, 1.0

    @property
    def end(self) -> Tensor:
        return torch.tensor(250 * np.log(self.scheduler.config.sigma_min), dtype=torch.float32)

    @property
    def top(self) -> float:
        return float(self.times[0])

    def told(self, slot: int, rho: Tensor) -> Tensor:
        told = self.times[slot].to(rho) + 250 * torch.log(rho)
        return told.clamp(float(self.end), self.top)

    def eps(self, slot: int, x: Tensor, output: Tensor) -> Tensor:
        """(x - f(x)) / sigma."""
        assert self.sigmas is not None
        sigma, data = self.sigmas[slot], self.scheduler.config.sigma_data
        unscaled = x * (sigma**2 + data**2) ** 0.5
        skip, out = self.scheduler.get_scalings_for_boundary_condition(torch.tensor(sigma))
        eps: Tensor = (unscaled - (skip * unscaled + out * output)) / sigma
        return eps

    def scales_at(self, tau: Tensor) -> tuple[Tensor, Tensor]:
        raise UserError("tau_scope must be embedding for cm, got full")
