"""The network as a sampler that tells it tau instead of its timestep sees it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from stepsearch.errors import UserError
from stepsearch.sampling.timetuner.solver import Solver
from stepsearch.sampling.timetuner.tuned_timesteps import restate

TauScope = Literal["embedding", "full"]
"""Who learns of tau. embedding: the network's time embedding alone, as eq. 7 has it. full: the
conversion of its output to eps as well, as the released code does; the same for eps-networks."""

Evaluate = Callable[[Tensor, Tensor], Tensor]
"""A network: (x [N, C, H, W], timestep, a float32 scalar) -> its output, shaped like x."""


def evaluate(denoiser: nn.Module, **condition: Any) -> Evaluate:
    """A denoiser of diffusers with the keyword arguments of its condition, e.g. class_labels."""

    def run(x: Tensor, t: Tensor) -> Tensor:
        output: Tensor = denoiser(x, t, **condition).sample
        return output

    return run


def guided(
    denoiser: nn.Module,
    scale: float,
    condition: Mapping[str, Tensor],
    no_condition: Mapping[str, Tensor],
) -> Evaluate:
    """Classifier-free guidance in one evaluation, so that both halves are told the same time.

    The tensors of both conditions are rows for every image, [N, ...].
    """
    both = {name: torch.cat([no_condition[name], condition[name]]) for name in condition}

    def run(x: Tensor, t: Tensor) -> Tensor:
        plain, conditioned = denoiser(torch.cat([x, x]), t, **both).sample.chunk(2)
        mixed: Tensor = plain + scale * (conditioned - plain)
        return mixed

    return run


class Network:
    """A network and the solver that evaluates it."""

    def __init__(self, run: Evaluate, solver: Solver, scope: TauScope = "embedding") -> None:
        """Raises UserError where the solver has no conversion that could see tau."""
        self._run, self.solver, self.scope = run, solver, scope
        if scope == "full":
            solver.scales_at(solver.end)

    def output(self, slot: int, x: Tensor, tau: Tensor) -> Tensor:
        """What the scheduler is given: the output at tau, in terms of the slot's nominal time."""
        output = self._run(x, tau)
        if self.scope == "embedding":
            return output
        told = self.solver.scales_at(tau)
        stated: Tensor = restate(
            output, x, self.solver.prediction_type, told, self.solver.scales[slot]
        )
        return stated

    def eps(self, slot: int, x: Tensor) -> Tensor:
        """The noise that it sees at a slot when told the nominal time; slot S is the end."""
        solver = self.solver
        t = solver.times[slot] if slot < solver.nfe else solver.end
        return solver.eps(slot, x, self._run(x, t.to(x.device)))


def check_times(run: Evaluate, x: Tensor, T: int) -> None:
    """Raise UserError unless the network takes timesteps between the integers and sees them.

    A learned embedding has no rows there; a network in half precision, or one that casts its
    timestep to integers, rounds them.
    """
    for t in (1.0, T / 2, T - 2.0):
        try:
            at, between = (run(x, torch.tensor(t + more)) for more in (0.0, 0.5))
        except (RuntimeError, IndexError, TypeError) as error:
            raise UserError(
                "denoiser must take timesteps between the integers, and a learned time embedding "
                f"does not: {str(error).splitlines()[0]}"
            ) from None
        if torch.equal(at, between):
            raise UserError(
                "denoiser must tell timesteps that differ by 0.5 apart, got the same output at "
                f"t = {t:g} and {t + 0.5:g}: it rounds them; pass them on as float32"
            )
