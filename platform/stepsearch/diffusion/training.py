"""Training a denoiser with a timestep strategy: plain PyTorch, on one worker or on several."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_

from stepsearch.diffusion.batches import Batches
from stepsearch.diffusion.compilation import compiled
from stepsearch.diffusion.dropout import Dropout
from stepsearch.diffusion.ema import MovingAverages
from stepsearch.diffusion.execution import check_execution, check_precision, lay_out_channels_last
from stepsearch.diffusion.flat import flatten_gradients, flatten_weights
from stepsearch.diffusion.gradient_noise import GradientNoise, gradient_noise
from stepsearch.diffusion.labels import check_label_dropout, drop, null_class
from stepsearch.diffusion.loss import BINS, LossMeter, LossSummary, log_snr_bins
from stepsearch.diffusion.loss_scale import loss_scale
from stepsearch.diffusion.memory import reuse_freed_memory
from stepsearch.diffusion.multistage.shards import read_merged
from stepsearch.diffusion.multistage.stage_parallel import sharing
from stepsearch.diffusion.noise import NoiseProcess
from stepsearch.diffusion.seeds import generator
from stepsearch.diffusion.step import Evaluator, TrainingStep, errors
from stepsearch.diffusion.training_config import TrainingConfig
from stepsearch.diffusion.workers import ALONE, Workers
from stepsearch.errors import UserError
from stepsearch.strategies.base import Strategy

__all__ = ["LossSummary", "Training", "TrainingConfig", "Workers"]

_CHECK_EVERY = 10
"""Steps between two looks for a NaN: each look waits for the device."""
_TICK_S = 5.0


class Training:
    """One training run that can stop after any step and go on elsewhere, bit for bit on a CPU.

    Minimises the mean over the batch of w_t ||target - denoiser(x_t, t)||^2 / dim with t drawn
    from the strategy's density. Image indices, timesteps, noise and the labels to drop are drawn
    for the global batch on every worker alike and each worker takes its slice, so that the number
    of workers changes the result by rounding only. What dropout drops is drawn by each worker and
    slice by slice, so that with dropout the numbers of both change it, as another seed would.
    """

    def __init__(
        self,
        config: TrainingConfig,
        denoiser: nn.Module,
        process: NoiseProcess,
        strategy: Strategy,
        images: Tensor,
        *,
        budget: int,
        seed: int,
        flip: bool = False,
        labels: Tensor | None = None,
        workers: Workers = ALONE,
        slices: int = 1,
        starts: Sequence[int] = (),
        stages_apart: bool = False,
    ) -> None:
        """`images` are [N, C, H, W], uint8 or float32 in [-1, 1], with `flip` mirrored, too;
        `labels`, int64 [N], are told to a denoiser with classes; `budget`, in images, ends the
        lr_scheduler; `slices` is the gradient accumulation, which changes the gradient by rounding
        only, unless there is dropout. A denoiser with stages has its second one, third ... from
        the timesteps `starts` on; with `stages_apart` each of several workers has one of them (see
        `StageParallel`).

        Raises UserError if the workers cannot share a batch evenly, if a denoiser cannot be
        trained on this target in this process, or as the config says on this device.
        """
        from diffusers.optimization import get_scheduler

        process.config.check(config.prediction_type)
        check_precision(config.precision, workers.device)
        check_execution(config, denoiser, starts)
        self._null = null_class(denoiser)
        check_label_dropout(config.label_dropout, told=self._null is not None)
        reuse_freed_memory()
        self.config, self.process, self.strategy = config, process, strategy
        self.workers, self.budget, self.images_seen = workers, budget, 0
        stages = len(starts) + 1 if stages_apart else 1
        self._parallel = sharing(workers, config.batch_size, stages)
        self.denoiser = self._parallel.held(denoiser).to(workers.device).train()
        if config.gradient_checkpointing:
            self.denoiser.enable_gradient_checkpointing()  # type: ignore[operator]  # diffusers'
        self._share, self.slices, self._starts = self._parallel.share, slices, starts
        told = None if self._null is None else labels
        self._batches = Batches(images, seed, workers.device, flip=flip, labels=told)
        self._seed = seed
        self._generator = generator("training", seed, device=workers.device)
        self._dropout = Dropout(self.denoiser, seed, workers)
        self._averages = MovingAverages(self.denoiser, config)
        self._weights = nn.Parameter(flatten_weights(self.denoiser))
        self._weights.grad = self._gradient = flatten_gradients(self.denoiser)
        self._optimizer = torch.optim.AdamW(
            [self._weights], lr=config.lr, weight_decay=config.weight_decay, fused=True
        )
        self._scale = loss_scale(config.precision, workers.device)
        self._lr_scheduler = get_scheduler(
            {"constant": "constant_with_warmup", "cosine": "cosine"}[config.lr_scheduler],
            self._optimizer,
            num_warmup_steps=config.warmup_steps,
            num_training_steps=math.ceil(budget / config.batch_size),
        )
        strategy.begin(tuple(images.shape[1:]), generator("strategy", seed, device=workers.device))
        most = math.ceil(config.batch_size / workers.size / slices)
        self._evaluator = Evaluator(self.denoiser, process, config.prediction_type, workers, most)
        if config.channels_last:
            lay_out_channels_last(self.denoiser)
        self._network = self._parallel.wrapped(self._compiled(most), slices)

    def _compiled(self, most: int) -> nn.Module:
        """The denoiser, compiled for slices of `most` images if the config says so."""
        if not self.config.compile:
            return self.denoiser
        target, (x0, labels) = self.config.prediction_type, self._batches.labelled(0, most)
        return compiled(self.denoiser, self.process, target, x0, self.config.precision, labels)

    @property
    def ema(self) -> nn.Module:
        """The denoiser with averaged weights, in eval mode: what samples are drawn with.

        All of it, also where workers have a stage each: then all of them must ask for it.
        """
        return self._parallel.whole(self._averages.ema.module)

    @property
    def averages(self) -> dict[int, nn.Module]:
        """The same with the averages of the config's `ema_halflives`."""
        others = self._averages.others
        return {halflife: self._parallel.whole(own.module) for halflife, own in others.items()}

    @property
    def skipped_steps(self) -> int:
        """Steps left out because float16's gradient overflowed; waits for the device."""
        return self._scale.skipped

    def gradient_noise(self, images: int) -> GradientNoise:
        """By bin of log-SNR, from the next `images` ones in each, a multiple of 4.

        Changes nothing; where there are several workers, all of them must ask for it.
        """
        bins, _ = log_snr_bins(self.process.log_snr)
        x0, labels = self._batches.labelled(self.images_seen, images)
        draws = generator("gradients", self._seed, self.images_seen, device=self.workers.device)
        told = drop(labels, self.config.label_dropout, self._null, draws)
        places = torch.from_numpy(bins).to(self.workers.device)
        return gradient_noise(self._evaluator, places, BINS, x0, draws, told)

    @property
    def shards(self) -> int:
        """The first workers, so many, have to `save`; the others hold the same state as they."""
        return self._parallel.shards

    def run(self, until: int, tick: Callable[[], bool] = lambda: True) -> LossSummary:
        """Train until `images_seen` >= `until`, which the budget bounds, or `tick` says stop.

        It is asked every few seconds, by all workers after the same steps. Raises Diverged within
        10 steps of a NaN or infinite loss or gradient, and always before returning.
        """
        if until > self.budget:
            raise ValueError(f"until must be at most the budget ({self.budget}), got {until}")
        meter = LossMeter(self.process.log_snr, self.workers, self._starts)
        ticked = 0.0
        while self.images_seen < until:
            self._step(meter)
            if self._steps % _CHECK_EVERY == 0:
                seconds = meter.check(self.images_seen)
                if seconds - ticked >= _TICK_S:
                    ticked = seconds
                    if not tick():
                        break
        meter.check(self.images_seen)
        return meter.summary()

    @property
    def _steps(self) -> int:
        return self.images_seen // self.config.batch_size

    def _step(self, meter: LossMeter) -> None:
        step = self._draw()
        self.strategy.before_update(step)
        labels = () if step.labels is None else (step.labels,)
        mine = [v[self._share] for v in (step.x0, step.t, step.noise, step.level, *labels)]
        slices = list(zip(*(v.chunk(self.slices) for v in mine), strict=True))
        share = len(mine[0])
        with self._dropout.at(self._steps):
            losses = [self._backward(*part, of=share) for part in slices[:-1]]
            losses.append(self._backward(*slices[-1], of=share, last=True))
        grad_norm = self._update()
        step.mine = mse = torch.cat([mse for mse, _ in losses])
        self.strategy.after_update(step)
        meter.add(
            step.t[self._share], mse, torch.stack([loss for _, loss in losses]).sum(), grad_norm
        )
        self.images_seen += self.config.batch_size

    def _backward(
        self,
        x0: Tensor,
        t: Tensor,
        noise: Tensor,
        level: Tensor,
        labels: Tensor | None = None,
        *,
        of: int,
        last: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """Add a slice's part of the gradient; its errors [n] and its part of the loss.

        Workers exchange gradients once, with their last slice.
        """
        with nullcontext() if last else self._parallel.alone():
            mse = errors(
                self._network,
                self.process,
                self.config.prediction_type,
                x0,
                noise,
                level,
                self.config.precision,
                labels,
                drawn=t if self._starts else None,  # a level at a bin's end may round over it
            )
            loss = (self.strategy.weights(t) * mse).mean() * (len(t) / of)
            torch.autograd.backward(self._scale.up(loss))
        return mse.detach(), loss.detach()

    def _draw(self) -> TrainingStep:
        """The next global batch."""
        x0, labels = self._batches.labelled(self.images_seen, self.config.batch_size)
        t = self.strategy.draw_for(x0, self._generator)
        noise = torch.randn(x0.shape, generator=self._generator, device=x0.device)
        level = self.process.jitter(t, self._generator)
        told = drop(labels, self.config.label_dropout, self._null, self._generator)
        progress = self.images_seen / self.budget
        return TrainingStep(
            self._steps, progress, x0, t, noise, level, told, self._generator, self._evaluator
        )

    def _update(self) -> Tensor:
        """Move the weights along the gradient; returns the gradient's norm."""
        gradient = self._gradient
        self._parallel.exchange(gradient)
        self._scale.down(gradient)
        grad_norm = self._parallel.norm(gradient)
        clip_grads_with_norm_(self._weights, self.config.grad_clip, grad_norm)
        grad_norm = self._scale.step(self._optimizer, grad_norm)
        self._optimizer.zero_grad(set_to_none=False)  # see flatten_gradients
        self._lr_scheduler.step()
        self._averages.update(self._weights, self._steps)
        return grad_norm

    def state_dict(self) -> dict[str, Any]:
        """Everything that the following steps depend on; refers to live tensors."""
        return {
            "images_seen": self.images_seen,
            "denoiser": self.denoiser.state_dict(),
            **self._averages.state_dict(),
            "loss_scale": self._scale.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "lr_scheduler": self._lr_scheduler.state_dict(),
            "strategy": self.strategy.state_dict(),
            "generator": self._generator.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""
        self.images_seen = state["images_seen"]
        self.denoiser.load_state_dict(state["denoiser"])
        self._averages.load_state_dict(state)
        self._scale.load_state_dict(state.get("loss_scale", {}))
        self._optimizer.load_state_dict(state["optimizer"])
        self._lr_scheduler.load_state_dict(state["lr_scheduler"])
        self.strategy.load_state_dict(state["strategy"])
        self._draw_on(state["generator"])

    def _draw_on(self, state: Tensor) -> None:
        """Go on with a generator's random numbers, or with others where it was one of a GPU and
        this one is not, or the other way round: their states have different lengths."""
        if len(state) == len(self._generator.get_state()):
            self._generator.set_state(state)
        else:
            others = generator("training", self._seed, self.images_seen)
            self._generator.manual_seed(others.initial_seed())

    def save(self, path: Path) -> None:
        """Write a checkpoint, or this worker's part of it where workers have a stage each."""
        self._parallel.save(self.state_dict(), path)

    def resume(self, path: Path) -> None:
        """Go on from the last checkpoint at `path` that is whole; without one, begin anew."""
        state = self._parallel.latest(path)
        if state is not None:
            self.load_state_dict(state)

    def load(self, path: Path) -> None:
        """Go on from a checkpoint, whole or in parts, with the whole denoiser."""
        state = read_merged(path)
        try:
            self.load_state_dict(state)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"{path} must be a checkpoint of this training: {reason}") from None
