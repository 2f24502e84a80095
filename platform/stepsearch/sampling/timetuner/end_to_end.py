"""tau from the images themselves: the gradient of their distance to the data's, through all steps.

Eq. 9 and 11 look at one step and at how well it keeps the noise that the network sees. Here all
slots move together, towards images that are distributed like the data's. (Watson et al. 2022,
arXiv 2202.05830, move a sampler's coefficients in this way, by a kernel distance.)
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from pydantic import Field, field_validator
from torch import Tensor

from stepsearch.config import Config
from stepsearch.diffusion.seeds import generator
from stepsearch.errors import UserError
from stepsearch.evaluation.distances import energy_distance
from stepsearch.sampling.timetuner.draw import sample
from stepsearch.sampling.timetuner.gradient import GradientConfig, Tuned, losses
from stepsearch.sampling.timetuner.network import Network
from stepsearch.sampling.timetuner.ripples import WAVE, around
from stepsearch.sampling.timetuner.shifts import ShiftedTimes

_NARROW = 0.7
"""Of the iterations, after which the told times are a period apart."""


class EndToEndConfig(Config):
    """Adam on the shifts r of all slots (see `ShiftedTimes`); its rate falls by half a cosine."""

    iterations: int = Field(default=120, ge=1)
    lr: float = Field(default=0.05, gt=0)
    """Of r, where 1 is the way to the next slot's time."""
    spread: float = Field(default=1.0, ge=0)
    """How far apart the times are at first that the images of a batch are told, in the unit of r.
    It falls to `wave`, which is the least."""
    wave: float = Field(default=WAVE, ge=0)
    """In t, the period of the fastest sine of the denoiser's time embedding; 0 if it has none."""
    r: tuple[float, float] = (-1.0, 1.5)
    """Where the shifts may be."""
    batch_size: int = Field(default=64, ge=2)
    """Images drawn for one gradient."""
    real: int = Field(default=512, ge=2)
    """Images of the data that they are compared with, drawn anew each time."""
    held_out: int = Field(default=1024, ge=2)
    """Images, from other noise, on which the times are compared with the untuned ones."""
    tune_last: bool = False
    """Tune the last slot too: closer to the data still, with a little more static."""
    recompute: bool = False
    """Evaluate the network again on the way back instead of keeping what every slot computed:
    the memory of one evaluation instead of all, for a third more time."""
    seed: int = Field(default=0, ge=0)

    @field_validator("r")
    @classmethod
    def _holds_the_untuned(cls, r: tuple[float, float]) -> tuple[float, float]:
        if not r[0] < 0 < r[1]:
            raise ValueError(
                f"r must be a range with 0, untuned, inside, got ({r[0]:g}, {r[1]:g})"
            )
        return r


def tune_end_to_end(network: Network, images: Tensor, config: EndToEndConfig) -> Tuned:
    """tau for every slot of the network's solver, from clean images [n, C, H, W].

    Lowers the energy distance, in pixels, between images that are drawn and the given ones, or in
    latents where the network draws those: no decoder has a part in the gradient. The
    result is the mean of the second half of the iterations, or the untuned times, if it is no
    closer on held-out noise. The losses of the result are those of eq. 9, which are not lowered
    here. Raises UserError for fewer than two images.
    """
    check_images(images)
    nominal = network.solver.times
    at = ShiftedTimes(nominal.tolist(), float(network.solver.end), network.solver.top)
    r = _shifts(network, at, images, config)
    tau = torch.tensor(at.times(r.tolist()).clip(at.end, at.top), dtype=torch.float32)
    untuned, found = (held_out(network, times, images, config) for times in (nominal, tau))
    iterations = config.iterations
    if not found < untuned:
        tau, found, iterations = nominal.clone(), untuned, 0
    before, after = (losses(network, times, images, GradientConfig()) for times in (nominal, tau))
    free = free_slots(at, config)
    taken = tuple(iterations if slot in free else 0 for slot in range(len(tau)))
    return Tuned(tau, nominal.clone(), tuple(after), tuple(before), taken, (untuned, found))


def check_images(images: Tensor) -> None:
    """Raise UserError for fewer than two."""
    if len(images) < 2:
        raise UserError(f"images must be at least two to tune on, got {len(images)}")


def free_slots(at: ShiftedTimes, config: EndToEndConfig) -> list[int]:
    return [slot for slot in at.free if config.tune_last or slot < len(at.t) - 1]


def _shifts(network: Network, at: ShiftedTimes, images: Tensor, config: EndToEndConfig) -> Tensor:
    """The shifts [S] that Adam finds."""
    t, down, up = (torch.tensor(v, dtype=torch.float32) for v in (at.t, at.down, at.up))
    r = torch.zeros(len(t), requires_grad=True)

    def distance(index: int) -> Tensor:
        tau = told(t - r * torch.where(r >= 0, down, up), (down + up) / 2, at, index, config)
        return distance_of_a_batch(network, tau, images, index, config)

    return adam([r], distance, lambda: hold(r, free_slots(at, config), config), config)[0]


def told(
    tau: Tensor, room: Tensor, at: ShiftedTimes, index: int, config: EndToEndConfig
) -> Tensor:
    """A time for each image of a batch, [S, N], around those of the slots that are tuned; `room`
    [S] is what a shift of 1 is."""
    left = max(0.0, 1 - index / (_NARROW * config.iterations))
    width, free = torch.zeros(len(tau)), free_slots(at, config)
    width[free] = (config.spread * left * room.detach()[free]).clamp(min=config.wave)
    chance = generator("end to end, told", config.seed, index)
    return around(tau, width, config.batch_size, chance).clamp(at.end, at.top)


def hold(r: Tensor, free: list[int], config: EndToEndConfig) -> None:
    """Put shifts back into their range, and those of slots that are not tuned to 0."""
    fixed = torch.ones(len(r), dtype=torch.bool)
    fixed[free] = False
    r.clamp_(*config.r)[fixed] = 0


def adam(
    numbers: list[Tensor],
    distance: Callable[[int], Tensor],
    hold: Callable[[], None],
    config: EndToEndConfig,
) -> list[Tensor]:
    """Lower the distance of batch after batch; the means of the second half of the iterations.

    `hold` is called after each step and puts the numbers back to where they may be.
    """
    optimizer = torch.optim.Adam(numbers, lr=config.lr, betas=(0.9, 0.95))
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(
        optimizer, config.iterations, eta_min=config.lr / 10
    )
    first, totals = config.iterations // 2, [torch.zeros_like(each) for each in numbers]
    for i in range(config.iterations):
        slopes = torch.autograd.grad(distance(i), numbers)
        for each, slope in zip(numbers, slopes, strict=True):
            each.grad = slope
        optimizer.step()
        falling.step()
        with torch.no_grad():
            hold()
        if i >= first:
            for total, each in zip(totals, numbers, strict=True):
                total += each.detach()
    return [total / (config.iterations - first) for total in totals]


def distance_of_a_batch(
    network: Network, tau: Tensor, images: Tensor, index: int, config: EndToEndConfig
) -> Tensor:
    """To the data's images, of N that are told tau [S, N]; what else it takes depends on
    (seed, index) only."""
    chance = generator("end to end", config.seed, index)
    real = images[torch.randint(len(images), (config.real,), generator=chance).to(images.device)]
    n, first = config.batch_size, index * config.batch_size
    drawn = _draw(network, tau, images, n, first, chance, recompute=config.recompute)
    return energy_distance(real.flatten(1), drawn.flatten(1))


def _draw(
    network: Network,
    tau: Tensor,
    images: Tensor,
    n: int,
    first: int,
    chance: torch.Generator,
    *,
    recompute: bool = False,
) -> Tensor:
    """n images like those given, in a batch; `first` is the number of the first one, from which
    their classes follow."""
    x = torch.randn((n, *images.shape[1:]), generator=chance).to(images)
    labels = network.drawn(first, first + n)
    drawn = sample(network, tau.to(x.device), x, chance, labels=labels, recompute=recompute)
    return network.finished(drawn)


@torch.no_grad()
def held_out(network: Network, tau: Tensor, images: Tensor, config: EndToEndConfig) -> float:
    drawn = []
    for first in range(0, config.held_out, config.batch_size):
        n = min(config.batch_size, config.held_out - first)
        chance = generator("end to end, held out", config.seed, first)
        drawn.append(_draw(network, tau, images, n, first, chance))
    chance = generator("end to end, held out", config.seed)
    order = torch.randperm(len(images), generator=chance)[: 4 * config.real]
    return float(
        energy_distance(images[order.to(images.device)].flatten(1), torch.cat(drawn).flatten(1))
    )
