"""Drawing images with tau, and what tau is worth: the distance to a many-step teacher."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from stepsearch.diffusion.seeds import generator
from stepsearch.diffusion.workers import ALONE, Workers
from stepsearch.errors import Diverged, UserError
from stepsearch.sampling.timetuner.network import Network
from stepsearch.sampling.timetuner.solver import Noise


@torch.no_grad()
def draw(
    network: Network,
    tau: Tensor,
    n: int,
    *,
    shape: tuple[int, int, int],
    seed: int,
    first: int = 0,
    batch_size: int = 256,
    device: torch.device | str = "cpu",
    workers: Workers = ALONE,
) -> Tensor:
    """n images [n, C, H, W] in [-1, 1], or latents, on the CPU; each depends on (seed, i) only.

    The first one is number `first`. The noise is that of `stepsearch.sampling.sampler.generate`.
    Each of several workers draws an equally long run of images, and all of them get all. Raises
    UserError for a tau that does not fit or no images, Diverged for images that are not finite.
    """
    from diffusers.utils.torch_utils import randn_tensor

    if n < 1:
        raise UserError(f"n must be at least 1 image, got {n}")
    tau = check_tau(tau, network).to(device)
    each = math.ceil(n / workers.size)
    begin = first + workers.rank * each
    batches = []
    for low in range(begin, begin + each, batch_size):
        high = min(low + batch_size, begin + each)
        noise = [generator("image", seed, i) for i in range(low, high)]
        x = randn_tensor((len(noise), *shape), generator=noise, device=torch.device(device))
        labels = network.drawn(low, high)
        drawn = sample(network, tau, x, noise, labels=labels)
        batches.append(network.finished(drawn).cpu())
    images = workers.gather(torch.cat(batches).to(workers.device))[:n].cpu()
    if not images.isfinite().all():
        raise Diverged("images drawn with this tau have NaN or infinite pixels")
    return images


def sample(
    network: Network,
    tau: Tensor,
    x: Tensor,
    noise: Noise,
    *,
    labels: Tensor | None = None,
    recompute: bool = False,
) -> Tensor:
    """Run the solver from x ~ N(0, I), [N, C, H, W]; differentiable in tau, [S] or [S, N].

    `labels` [N] are the classes, where the network is told them. With `recompute` the way back
    evaluates the network again, which takes less memory.
    """
    solver = network.solver
    state = solver.start(x)
    for slot in range(solver.nfe):
        seen = solver.look(state)
        if recompute:
            output = checkpoint(network.output, slot, seen, tau[slot], labels, use_reentrant=False)
        else:
            output = network.output(slot, seen, tau[slot], labels)
        state = solver.advance(state, output, noise)
    return state.x


def check_tau(tau: Tensor, network: Network) -> Tensor:
    """tau as float32 [S]. Raises UserError for another length or a number that is not finite."""
    if tau.shape != (network.solver.nfe,):
        raise UserError(f"tau must have nfe = {network.solver.nfe} numbers, got {list(tau.shape)}")
    if not tau.isfinite().all():
        raise UserError(f"tau must be finite, got {tau.tolist()}")
    return tau.float()


@dataclass(frozen=True)
class Verdict:
    """How a tuned schedule does beside the untuned one, seed by seed; lower is better."""

    metric: str
    tuned: tuple[float, ...]
    untuned: tuple[float, ...]

    @property
    def worse(self) -> bool:
        """Whether it does worse on average, or no better by not being a number."""
        return not sum(self.tuned) <= sum(self.untuned)

    def __str__(self) -> str:
        tuned, untuned = (sum(v) / len(v) for v in (self.tuned, self.untuned))
        word = "worse" if self.worse else "better" if tuned < untuned else "no worse"
        return (
            f"{word} than untuned: {self.metric} {tuned:.4g} beside {untuned:.4g}, "
            f"mean of {len(self.tuned)} seeds"
        )


def compare(
    metric: str,
    score: Callable[[Tensor, int], float],
    network: Network,
    tau: Tensor,
    seeds: Sequence[int],
    n: int,
    shape: tuple[int, int, int],
    *,
    before: Network | None = None,
    device: torch.device | str = "cpu",
) -> Verdict:
    """Score n images of each of `seeds`, which no tuning has seen, with and without tau.

    `score(images, seed)` is lower for better images, which it is given on the CPU; `device` is
    where the network is. `before` is the network under the sampler as it was, where its noise
    levels were tuned too. Raises UserError for no seeds.
    """
    if not seeds:
        raise UserError("seeds must be at least one to compare on, got none")
    found: dict[bool, list[float]] = {True: [], False: []}
    before = before or network
    for seed in seeds:
        for tuned, under, times in ((True, network, tau), (False, before, before.solver.times)):
            images = draw(under, times, n, shape=shape, seed=seed, device=device)
            found[tuned].append(score(images, seed))
    return Verdict(metric, tuple(found[True]), tuple(found[False]))


def gap_to(
    teacher: Network, shape: tuple[int, int, int], *, device: torch.device | str = "cpu"
) -> Callable[[Tensor, int], float]:
    """The mean L2 distance to what a many-step solver draws from the same noise, on `device`.

    Only for solvers whose steps add no noise: `SolverConfig.stochastic` says which do.
    """

    def gap(images: Tensor, seed: int) -> float:
        where: Any = {"shape": shape, "seed": seed, "device": device}
        wanted = draw(teacher, teacher.solver.times, len(images), **where)
        return float((images - wanted).flatten(1).norm(dim=1).mean())

    return gap
