"""One training step, as the strategies that learn may look at it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stepsearch.diffusion.execution import autocast
from stepsearch.diffusion.noise import NoiseProcess
from stepsearch.diffusion.training_config import Precision
from stepsearch.diffusion.workers import Workers
from stepsearch.strategies.base import PredictionType


def errors(
    network: nn.Module,
    process: NoiseProcess,
    prediction_type: PredictionType,
    x0: Tensor,
    noise: Tensor,
    level: Tensor,
    precision: Precision = "float32",
    labels: Tensor | None = None,
    drawn: Tensor | None = None,
) -> Tensor:
    """The mean squared error of the denoiser's own target for every image, float32 [n].

    `level` are timesteps, or between them where the process jitters; `labels` [n] are what a
    denoiser with classes is told, and `drawn` [n] the timesteps that choose the stage of one with
    stages. Only the network computes in `precision`.
    """
    x_t = process.add_noise(x0, noise, level)
    target = process.target(x0, noise, level, prediction_type)
    condition = {} if labels is None else {"class_labels": labels}
    if drawn is not None:
        condition["nominal"] = process.time(drawn)
    with autocast(precision, x_t.device):
        output = network(x_t, process.time(level), **condition).sample
    return F.mse_loss(output.float(), target, reduction="none").flatten(1).mean(1)


@dataclass(frozen=True)
class Evaluator:
    """Looks at the denoiser without changing it, on several workers together.

    Each takes a part of the images, never more than `most` at once, and all get all results. In
    float32 whatever the training's precision: strategies compare losses that differ by little.
    """

    denoiser: nn.Module
    process: NoiseProcess
    prediction_type: PredictionType
    workers: Workers
    most: int

    @torch.no_grad()
    def losses(self, x0: Tensor, t: Tensor, noise: Tensor, labels: Tensor | None = None) -> Tensor:
        """The errors of m images, [m], with dropout off."""
        size = self.workers.size
        share = -(-len(t) // size)
        with self._still():
            mine = [self._errors(*part) for part in self._parts(x0, t, noise, labels, share)]
        padded = torch.zeros(share, device=x0.device)
        if mine:
            found = torch.cat(mine)
            padded[: len(found)] = found
        return self.workers.gather(padded)[: len(t)]

    def gradient(
        self, x0: Tensor, t: Tensor, noise: Tensor, labels: Tensor | None = None
    ) -> Tensor:
        """The gradient of the mean error over m images as one vector, with dropout off.

        It is 0 for weights of stages that none of the images goes to.
        """
        weights = [p for p in self.denoiser.parameters() if p.requires_grad]
        total = torch.zeros(sum(p.numel() for p in weights), device=x0.device)
        share = -(-len(t) // self.workers.size)
        with self._still():
            for part in self._parts(x0, t, noise, labels, share):
                loss = self._errors(*part).sum() / len(t)
                gradients = torch.autograd.grad(loss, weights, materialize_grads=True)
                total += torch.cat([gradient.flatten() for gradient in gradients])
        return self.workers.sum(total)

    def _errors(self, x0: Tensor, t: Tensor, noise: Tensor, labels: Tensor | None) -> Tensor:
        process, target = self.process, self.prediction_type
        return errors(self.denoiser, process, target, x0, noise, t, labels=labels)

    def _parts(
        self, x0: Tensor, t: Tensor, noise: Tensor, labels: Tensor | None, share: int
    ) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor | None]]:
        """This worker's share of the images, in pieces."""
        end = min(len(t), (self.workers.rank + 1) * share)
        for first in range(self.workers.rank * share, end, self.most):
            part = slice(first, min(end, first + self.most))
            yield x0[part], t[part], noise[part], None if labels is None else labels[part]

    @contextmanager
    def _still(self) -> Iterator[None]:
        trained = self.denoiser.training
        self.denoiser.eval()
        try:
            yield
        finally:
            self.denoiser.train(trained)


@dataclass
class TrainingStep:
    """The whole batch of one step; see `stepsearch.strategies.Step`."""

    number: int
    progress: float
    x0: Tensor
    t: Tensor
    noise: Tensor
    level: Tensor
    """Where x0 is noised: t, or near it where the process jitters."""
    labels: Tensor | None
    """What a denoiser with classes is told of x0, [n]."""
    generator: torch.Generator
    evaluator: Evaluator
    mine: Tensor | None = None
    """The errors of this worker's share, once there are any."""

    def losses(self) -> Tensor:
        if self.mine is None:
            raise ValueError("the losses of a step are known after its update")
        return self.evaluator.workers.gather(self.mine)

    def evaluate(self, rows: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        return self.evaluator.losses(self.x0[rows], t, noise, self._told(rows))

    def gradient(self, rows: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        return self.evaluator.gradient(self.x0[rows], t, noise, self._told(rows))

    def _told(self, rows: Tensor) -> Tensor | None:
        return None if self.labels is None else self.labels[rows]
