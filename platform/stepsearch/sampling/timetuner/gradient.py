"""TimeTuner (Xia et al., CVPR 2024): a time for each evaluation of a trained network, by Adam."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from stepsearch.config import Config
from stepsearch.diffusion.seeds import generator
from stepsearch.diffusion.workers import ALONE, Workers
from stepsearch.errors import UserError
from stepsearch.sampling.timetuner.losses import Batch, batch, change, loss, step
from stepsearch.sampling.timetuner.network import Network
from stepsearch.sampling.timetuner.ripples import WAVE, around
from stepsearch.sampling.timetuner.solver import State


class GradientConfig(Config):
    """The paper's method with the settings of its released code, which stop early here."""

    strategy: Literal["sequential", "parallel"] = "sequential"
    """sequential: eq. 9, each slot from where the tuned ones before it lead. parallel: eq. 11,
    each slot from noised images, so that all of them can be tuned at the same time."""
    tune_last: bool = False
    """Tune the last slot too, as the paper writes and its code does not: there eq. 9 compares
    with a network at almost no noise."""
    iterations: int = Field(default=500, ge=1)
    """Adam's steps for a slot, at most."""
    lr: float = Field(default=2e-3, gt=0)
    """In units of tau / t."""
    batch_size: int = Field(default=32, ge=1)
    batches: int = Field(default=16, ge=1)
    """Batches of noised images, used in turn; held-out ones are in addition."""
    held_out: int = Field(default=4, ge=1)
    """Batches on which a slot's loss is compared with that of its untuned time."""
    check_every: int = Field(default=25, ge=1)
    """Iterations between two looks at the held-out loss."""
    patience: int = Field(default=3, ge=1)
    """Looks without a new lowest loss after which a slot is done."""
    wave: float = Field(default=WAVE, ge=0)
    """In t, over which the images of a batch are told times around tau: the period of the fastest
    sine of the denoiser's time embedding. 0, all are told tau, is the paper's method."""
    seed: int = Field(default=0, ge=0)


@dataclass(frozen=True, eq=False)
class Tuned:
    """tau for every slot, with the loss of eq. 9 or 11 on held-out batches."""

    tau: Tensor
    """[S] float32."""
    untuned: Tensor
    """[S] float32, the nominal times."""
    loss: tuple[float, ...]
    """[S], of tau."""
    loss_untuned: tuple[float, ...]
    """[S], of the nominal times; never below `loss` where that is what was lowered."""
    iterations: tuple[int, ...]
    """[S], Adam's steps; 0 for a slot that is not tuned."""
    distance: tuple[float, float] | None = None
    """Where it was lowered, the energy distance of images to the data's, untuned and tuned."""


def tune(
    network: Network, images: Tensor, config: GradientConfig, workers: Workers = ALONE
) -> Tuned:
    """tau for every slot of the network's solver, from clean images [n, C, H, W].

    L(tau) <= L(t) on the held-out batches, slot by slot, or the slot stays untuned. The network is
    left as it is; it costs less where its parameters require no gradient. With `parallel` each of
    several workers tunes some of the slots, and all of them get what one would find. Raises
    UserError for no images.
    """
    if not len(images):
        raise UserError("images must be at least one to tune on, got 0")
    if config.strategy == "parallel":
        found = _apart(network, images, config, workers)
    else:
        found = _in_turn(network, images, config)
    tau, loss, untuned, iterations = zip(*found, strict=True)
    return Tuned(torch.stack(tau), network.solver.times.clone(), loss, untuned, iterations)


Found = tuple[Tensor, float, float, int]
"""tau, its loss, that of the untuned time, and Adam's steps."""


def _batches(
    network: Network, images: Tensor, config: GradientConfig
) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
    """All batches of images, each with the noise for them and their classes, if there are any; the
    held-out ones are the last."""
    for index in range(config.batches + config.held_out):
        chance = generator("timetuner", config.seed, index)
        chosen = torch.randint(len(images), (config.batch_size,), generator=chance)
        chosen = chosen.to(images.device)
        x0, labels = images[chosen], network.labels
        told = None if labels is None else labels[chosen]
        yield x0, torch.randn(x0.shape, generator=chance).to(images), told


def _in_turn(network: Network, images: Tensor, config: GradientConfig) -> list[Found]:
    """Algorithm 1: from the noisiest slot on, each with the tau of those before it."""
    solver = network.solver
    found: list[Found] = []
    states = _noisiest(network, images, config)
    for slot in range(solver.nfe):
        batches = [batch(network, s, slot, (config.seed, i)) for i, s in enumerate(states)]
        found.append(_tune(network, slot, batches, config))
        states = [step(network, b, found[-1][0]) for b in batches]
    return found


def _noisiest(network: Network, images: Tensor, config: GradientConfig) -> list[State]:
    """Batches noised as far as the process goes, which is where sampling begins."""
    solver = network.solver
    alpha, sigma = solver.noisiest
    return [
        replace(solver.start(alpha * x0 + sigma * noise), labels=labels)
        for x0, noise, labels in _batches(network, images, config)
    ]


def losses(network: Network, tau: Tensor, images: Tensor, config: GradientConfig) -> list[float]:
    """Eq. 9 of each slot for given times, on the batches that `tune` holds out; [S]."""
    states = _noisiest(network, images, config)[-config.held_out :]
    at = [batch(network, s, 0, (config.seed, config.batches + i)) for i, s in enumerate(states)]
    found = []
    for slot in range(network.solver.nfe):
        after = [batch(network, step(network, b, tau[slot]), slot + 1, b.chance) for b in at]
        each = [float(change(b.target, a.target)) for b, a in zip(at, after, strict=True)]
        found.append(sum(each) / len(each))
        at = after
    return found


def _apart(
    network: Network, images: Tensor, config: GradientConfig, workers: Workers
) -> list[Found]:
    """Every slot for itself, the slots dealt out to the workers."""
    slots = network.solver.nfe
    rows = torch.zeros(slots, 4, dtype=torch.float64, device=workers.device)
    for slot in range(workers.rank, slots, workers.size):
        tau, *rest = tune_slot(network, slot, images, config)
        rows[slot] = torch.tensor([float(tau), *rest], dtype=torch.float64)
    times = network.solver.times
    return [
        (torch.tensor(found).to(times), loss, untuned, int(iterations))
        for found, loss, untuned, iterations in workers.sum(rows).tolist()
    ]


def tune_slot(network: Network, slot: int, images: Tensor, config: GradientConfig) -> Found:
    """Eq. 11 for one slot, which depends on no other: each may be tuned by another worker."""
    batches = []
    for index, (x0, noise, labels) in enumerate(_batches(network, images, config)):
        chance = (config.seed, index)
        state = replace(network.solver.noised(slot, x0, noise), labels=labels)
        while state.slot < slot:
            before = batch(network, state, state.slot, chance)
            state = step(network, before, network.solver.times[state.slot])
        batches.append(batch(network, state, slot, chance))
    return _tune(network, slot, batches, config)


def _tune(network: Network, slot: int, batches: list[Batch], config: GradientConfig) -> Found:
    """Adam on the ratio of tau to t."""
    solver = network.solver
    training, held_out = batches[: -config.held_out], batches[-config.held_out :]

    def at(batch: Batch, rho: Tensor) -> Tensor:
        return loss(network, batch, _told(network, slot, rho, batch, config))

    @torch.no_grad()
    def judge(rho: Tensor) -> float:
        return sum(float(at(batch, rho)) for batch in held_out) / len(held_out)

    @torch.no_grad()
    def exactly(tau: Tensor) -> float:
        return sum(float(loss(network, batch, tau)) for batch in held_out) / len(held_out)

    rho = torch.ones(())
    nominal = solver.told(slot, rho)
    untuned = exactly(nominal)
    if slot == solver.nfe - 1 and not config.tune_last:
        return nominal, untuned, untuned, 0
    rho, taken = _adam(lambda i, r: at(training[i % len(training)], r), judge, config)
    tau = solver.told(slot, rho)
    found = exactly(tau)
    return (tau, found, untuned, taken) if found < untuned else (nominal, untuned, untuned, taken)


def _told(
    network: Network, slot: int, rho: Tensor, batch: Batch, config: GradientConfig
) -> Tensor:
    """A time for each image of a batch, around that of the ratio."""
    solver = network.solver
    tau = solver.told(slot, rho)
    if not config.wave:
        return tau
    chance = generator("timetuner, told", *batch.chance, slot)
    width = torch.tensor([config.wave])
    told = around(tau[None], width, config.batch_size, chance)[0]
    return told.clamp(float(solver.end), solver.top)


def _adam(
    objective: Callable[[int, Tensor], Tensor],
    judge: Callable[[Tensor], float],
    config: GradientConfig,
) -> tuple[Tensor, int]:
    """The ratio with the lowest held-out loss, which is 1 if no other was lower."""
    rho = torch.ones((), requires_grad=True)
    best = rho.detach().clone()
    lowest, since, taken = judge(best), 0, 0
    optimizer = torch.optim.Adam([rho], lr=config.lr)
    for i in range(config.iterations):
        (rho.grad,) = torch.autograd.grad(objective(i, rho), rho)
        optimizer.step()
        taken = i + 1
        if taken % config.check_every and taken != config.iterations:
            continue
        now = judge(rho.detach())
        if now < lowest:
            best, lowest, since = rho.detach().clone(), now, 0
        else:
            since += 1
            if since == config.patience:
                break
    return best, taken
