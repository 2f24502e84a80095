"""Several trials in one process: their weights stacked and trained at once, or one by one?

Trials whose denoisers have one shape differ in their weights, draws and timestep strategies.
`FusedTraining` trains N of them in one loop: their N vectors of weights are the rows of a matrix,
torch.func.vmap runs the one network over the rows, and clipping, AdamW and the moving average work
on the whole matrix. The peer is `stepsearch.diffusion.training.Training`, N times.

First both train for 20 steps with the same draws and must agree up to rounding. Then they take
turns on one thread; the figures are CPU-seconds, which the rest of the machine disturbs least.
Fused trials would also have to report together and be stopped one by one: that is not counted
here, so a ratio is the most that fusing gives.

    python benchmarks/fused_trials.py [--quick]     # the last line is a JSON object
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import Attention, AttnProcessor
from diffusers.optimization import get_scheduler
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.utils import parameters_to_vector

from stepsearch.diffusion.data_order import DataOrder
from stepsearch.diffusion.datasets import DigitsConfig
from stepsearch.diffusion.denoisers import UNetConfig
from stepsearch.diffusion.loss import LossMeter, LossSummary
from stepsearch.diffusion.noise import VPConfig
from stepsearch.diffusion.seeds import generator
from stepsearch.diffusion.training import Training, TrainingConfig
from stepsearch.diffusion.workers import ALONE
from stepsearch.strategies import SpeedConfig


class FusedTraining:
    """N trainings as one: trial n draws, learns and ends as `trainings[n]` would on its own."""

    def __init__(
        self, trainings: Sequence[Training], images: Tensor, seeds: Sequence[int]
    ) -> None:
        """`trainings` are at their first step and alike but for strategies and seeds."""
        first, config = trainings[0], trainings[0].config
        self.config, self.process, self.images_seen = config, first.process, 0
        self._strategies = [training.strategy for training in trainings]
        self._orders = [DataOrder(len(images), seed, images.device) for seed in seeds]
        self._generators = [generator("training", seed) for seed in seeds]
        self._images = images
        self._network = _vmappable(copy.deepcopy(first.denoiser))
        rows = [parameters_to_vector(t.denoiser.parameters()).detach() for t in trainings]
        self._weights = nn.Parameter(torch.stack(rows))  # [N, weights of one]
        self._gradients = self._weights.grad = torch.zeros_like(self._weights)
        self._average = self._weights.detach().clone()
        self.parameters = self._views()
        self._optimizer = torch.optim.AdamW(
            [self._weights], lr=config.lr, weight_decay=config.weight_decay, fused=True
        )
        self._lr_scheduler = get_scheduler(
            {"constant": "constant_with_warmup", "cosine": "cosine"}[config.lr_scheduler],
            self._optimizer,
            num_warmup_steps=config.warmup_steps,
            num_training_steps=math.ceil(first.budget / config.batch_size),
        )

    def _views(self) -> dict[str, Tensor]:
        """Each parameter of all trials, [N, *shape], and its gradient: parts of the matrices."""
        views, at = {}, 0
        for name, parameter in self._network.named_parameters():
            part = slice(at, at := at + parameter.numel())
            shape = (-1, *parameter.shape)
            views[name] = self._weights.detach()[:, part].view(shape).requires_grad_()
            views[name].grad = self._gradients[:, part].view(shape)
        return views

    def run(self, until: int) -> list[LossSummary]:
        """Train all trials until `images_seen` >= `until`; one summary a trial."""
        meters = [LossMeter(self.process.log_snr, ALONE) for _ in self._strategies]
        while self.images_seen < until:
            self._step(meters)
        for meter in meters:
            meter.check(self.images_seen)
        return [meter.summary() for meter in meters]

    def _step(self, meters: Sequence[LossMeter]) -> None:
        """As in `Training`, with an axis of N trials in front of the batch."""
        x_t, t, target = self._draw()
        output = vmap(self.denoise)(self.parameters, x_t, t)
        mse = F.mse_loss(output, target, reduction="none").flatten(2).mean(2)
        weights = torch.stack([s.weights(row) for s, row in zip(self._strategies, t, strict=True)])
        losses = (weights * mse).mean(1)
        torch.autograd.backward(losses.sum())  # no weight of one trial is in another one's loss
        grad_norms = self._update()
        for i, (strategy, meter) in enumerate(zip(self._strategies, meters, strict=True)):
            strategy.observe(t[i], mse[i].detach())
            meter.add(t[i], mse[i].detach(), losses[i].detach(), grad_norms[i])
        self.images_seen += self.config.batch_size

    def denoise(self, parameters: dict[str, Tensor], x_t: Tensor, t: Tensor) -> Tensor:
        """One trial's network: what vmap runs over the rows."""
        output: Tensor = functional_call(self._network, parameters, (x_t, t)).sample
        return output

    def _draw(self) -> tuple[Tensor, Tensor, Tensor]:
        """x_t, t and the target, each [N, batch, ...], from the trials' own generators."""
        size, shape = self.config.batch_size, self._images.shape[1:]
        x0 = [self._images[order.indices(self.images_seen, size)] for order in self._orders]
        t, noise = [], []
        for strategy, own in zip(self._strategies, self._generators, strict=True):
            t.append(strategy.draw(size, own))
            noise.append(torch.randn((size, *shape), generator=own))
        drawn = torch.cat(x0), torch.cat(noise), torch.cat(t)
        x_t = self.process.add_noise(*drawn)
        target = self.process.target(*drawn, self.config.prediction_type)
        t_stacked, stacked = drawn[2].view(-1, size), (-1, size, *shape)
        return x_t.view(stacked), t_stacked, target.view(stacked)

    def _update(self) -> Tensor:
        """Clip each row's gradient by its own norm, move all; returns the norms [N]."""
        norms: Tensor = self._gradients.norm(dim=1)
        scale = (self.config.grad_clip / (norms + 1e-6)).clamp(max=1)  # as clip_grad_norm_ has it
        self._gradients.mul_(scale[:, None])
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=False)
        self._lr_scheduler.step()
        updates = self.images_seen // self.config.batch_size
        decay = min(self.config.ema_decay, (1 + updates) / (10 + updates))
        self._average.lerp_(self._weights.detach(), 1 - decay)
        return norms


def _vmappable(network: nn.Module) -> nn.Module:
    """vmap has no rule for the CPU's fused attention, nor for the group norm of a transpose."""
    for module in network.modules():
        if isinstance(module, Attention):
            module.set_processor(AttnProcessor())
            module.register_forward_hook(lambda _module, _inputs, output: output.contiguous())
    return network


@dataclass(frozen=True)
class Case:
    """A network, a batch and a number of trials, each with SpeeD at another tau."""

    channels: tuple[int, ...]
    batch_size: int
    trials: int

    def __str__(self) -> str:
        return f"U-Net {self.channels}, batch {self.batch_size}, {self.trials} trials"

    def build(self) -> tuple[list[Training], FusedTraining]:
        """The same trials twice, at their first step."""
        images, process = DigitsConfig().load(), VPConfig().build()
        trainings = [
            Training(
                TrainingConfig(batch_size=self.batch_size),
                UNetConfig(channels=self.channels).build(images.shape, seed),
                process,
                SpeedConfig(tau=400 + 50 * seed).build(process.alpha_bar),
                images.train,
                budget=600 * self.batch_size,
                seed=seed,
            )
            for seed in range(self.trials)
        ]
        return trainings, FusedTraining(trainings, images.train, range(self.trials))


def difference(case: Case, steps: int = 20) -> tuple[float, float]:
    """How far fused and unfused trainings come apart: mean losses and outputs, at most.

    Their weights do part, without effect: of a bias that a group norm takes out again the gradient
    is rounding and nothing else, and AdamW makes steps of full length from it.
    """
    each, fused = case.build()
    fused_losses = [summary.mean_loss for summary in fused.run(steps * case.batch_size)]
    losses = [training.run(steps * case.batch_size).mean_loss for training in each]
    x_t, t = torch.randn(64, *DigitsConfig().load().shape), torch.linspace(0, 999, 64).long()
    with torch.no_grad():
        said = [own.denoiser(x_t, t).sample for own in each]
        fused_said = vmap(fused.denoise, in_dims=(0, None, None))(fused.parameters, x_t, t)
    loss_gap = max(abs(a - b) for a, b in zip(losses, fused_losses, strict=True))
    return loss_gap, float((torch.stack(said) - fused_said).abs().max())


def compare(case: Case, rounds: int, steps: int) -> dict[str, list[float]]:
    """CPU-milliseconds a trial and step, round by round; who goes first alternates."""
    each, fused = case.build()

    def one_by_one(until: int) -> None:
        for training in each:
            training.run(until)

    loops: dict[str, Callable[[int], object]] = {"one by one": one_by_one, "fused": fused.run}
    spent: dict[str, list[float]] = {name: [] for name in loops}
    for turn in range(-1, rounds):  # the first one warms up and is not counted
        until = fused.images_seen + steps * case.batch_size
        for name in sorted(loops, reverse=turn % 2 == 0):
            begun = time.process_time()
            loops[name](until)
            if turn >= 0:
                cpu_s = time.process_time() - begun
                spent[name].append(1000 * cpu_s / (steps * case.trials))
    return spent


CASES = (
    *(Case((16, 32), 64, trials) for trials in (1, 2, 4, 8)),
    *(Case((8, 16), 16, trials) for trials in (4, 8)),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="four rounds instead of twelve")
    rounds, steps = (4, 4) if parser.parse_args().quick else (12, 6)
    torch.set_num_threads(1)
    # The strides of gradients of shape [N, 1] are not those that autograd would choose: no matter.
    warnings.filterwarnings("ignore", message="grad and param do not obey")
    result: dict[str, Any] = {"benchmark": "fused_trials", "rounds": rounds, "steps": steps}
    print("fused against one by one after 20 steps, largest difference of losses, of outputs")
    for case in (CASES[2], CASES[-1]):
        losses, outputs = difference(case)
        print(f"  {case!s:40s}{losses:10.1e}{outputs:10.1e}")
        result[f"difference, {case}"] = {"losses": losses, "outputs": outputs}
    print(f"\n{'CPU-ms a trial and step':42s}{'one by one':>10s}{'fused':>10s}   ratio")
    for case in CASES:
        spent = compare(case, rounds, steps)
        ratios = [a / b for a, b in zip(*spent.values(), strict=True)]
        median = {name: statistics.median(ms) for name, ms in {**spent, "ratio": ratios}.items()}
        row = "{:10.2f}{:10.2f}{:8.2f}".format(*median.values())
        print(f"  {case!s:40s}{row} ({min(ratios):.2f} to {max(ratios):.2f})")
        result[str(case)] = {name: round(value, 3) for name, value in median.items()}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
