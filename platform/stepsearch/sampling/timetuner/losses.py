"""Eq. 9 and 11 of TimeTuner: how much the noise that a network sees changes over a step."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from stepsearch.diffusion.seeds import generator
from stepsearch.sampling.timetuner.network import Network
from stepsearch.sampling.timetuner.solver import State


@dataclass(frozen=True, eq=False)
class Batch:
    """Images before one evaluation, and the noise that the network sees in them when told t."""

    state: State
    target: Tensor
    chance: tuple[int, ...]
    """What the noise of its random steps is made from: a seed and the batch's number."""


@torch.no_grad()
def batch(network: Network, state: State, slot: int, chance: tuple[int, ...]) -> Batch:
    """A batch with its target, eps at the state and its nominal time."""
    return Batch(state, network.eps(slot, network.solver.look(state), state.labels), chance)


@torch.no_grad()
def step(network: Network, batch: Batch, tau: Tensor) -> State:
    """The state after the network was told tau."""
    return _advance(network, batch, tau)


def _advance(network: Network, batch: Batch, tau: Tensor) -> State:
    """The noise of random steps is the same whenever it is asked for (common random numbers)."""
    state = batch.state
    seen, tau = network.solver.look(state), tau.to(state.x.device)
    output = network.output(state.slot, seen, tau, state.labels)
    chance = generator("timetuner step", *batch.chance, state.slot)
    return network.solver.advance(state, output, chance)


def loss(network: Network, batch: Batch, tau: Tensor) -> Tensor:
    """Eq. 9, or 11 for a batch of noised images: how much the noise that the network sees
    changes over a step in which it was told tau."""
    after = _advance(network, batch, tau)
    eps = network.eps(after.slot, network.solver.look(after), after.labels)
    return change(batch.target, eps)


def change(before: Tensor, after: Tensor) -> Tensor:
    """Of the noise: its squares summed over an image, averaged over the batch."""
    return (after - before).square().flatten(1).sum(1).mean()
