"""Images trained a second: stepsearch's loop against diffusers' own training example.

The peer is the inner loop of diffusers 0.42's
examples/unconditional_image_generation/train_unconditional.py with its default options, without
accelerate (in one process it only enters autocast, makes the output float32 again and moves the
batches to the device, as is done here) and without progress bars and trackers. Its dataset here is
a list of tensors, which costs less than the example's decoding and augmenting. Both train the same
network at the same batch size on the same images, on one thread or one GPU, taking turns, so that
both meet the same disturbances.

    python benchmarks/loop_against_diffusers.py [--quick] [--own-processes] [--precision bfloat16]
    python benchmarks/loop_against_diffusers.py --device cuda --precision bfloat16 --compile \
        --size 32 --channels 128 256 256 256 --batch-size 128

In one process the peer also gains from what our loop asks of the memory allocator (see
stepsearch/diffusion/memory.py); with --own-processes it runs as it would on its own.

The last line is a JSON object.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import itertools
import json
import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from torch import Tensor, nn

from stepsearch.diffusion.datasets import DigitsConfig
from stepsearch.diffusion.denoisers import UNetConfig
from stepsearch.diffusion.noise import VPConfig
from stepsearch.diffusion.training import Training, TrainingConfig
from stepsearch.diffusion.workers import Workers
from stepsearch.strategies import UniformConfig


@dataclass(frozen=True)
class Case:
    """What both train, and how it is computed."""

    batch_size: int
    total_steps: int
    device: str
    precision: str
    compile: bool
    size: int | None
    channels: tuple[int, ...]

    def images(self) -> Tensor:
        """The digits, or random colours of a size, which are trained on as fast as pictures."""
        if self.size is None:
            return DigitsConfig().load().train
        generator = torch.Generator().manual_seed(0)
        return torch.rand(2048, 3, self.size, self.size, generator=generator) * 2 - 1

    def denoiser(self) -> nn.Module:
        channels, height, width = self.images().shape[1:]
        config = UNetConfig(channels=self.channels)
        network: nn.Module = config.build((channels, height, width), seed=0)
        return network

    def autocast(self) -> AbstractContextManager[Any]:
        if self.precision == "float32":
            return nullcontext()
        return torch.autocast(self.device, getattr(torch, self.precision))


Loop = Callable[[int], None]
"""Trains for so many steps."""
BuildLoop = Callable[[Case], Loop]


def our_loop(case: Case) -> Loop:
    process = VPConfig().build()
    config = {"lr": 1e-4, "warmup_steps": 500, "ema_decay": 0.9999}
    training = Training(
        TrainingConfig.model_validate(
            config | {name: getattr(case, name) for name in ("batch_size", "precision", "compile")}
        ),
        case.denoiser(),
        process,
        UniformConfig().build(process.alpha_bar),
        case.images(),
        budget=case.batch_size * case.total_steps,
        seed=0,
        workers=Workers(device=torch.device(case.device)),
    )

    def train(steps: int) -> None:
        training.run(training.images_seen + case.batch_size * steps)

    return train


def diffusers_loop(case: Case) -> Loop:
    device = torch.device(case.device)
    model = case.denoiser().to(device)
    network: Any = torch.compile(model) if case.compile else model
    ema_model = EMAModel(
        model.parameters(), decay=0.9999, use_ema_warmup=True, inv_gamma=1.0, power=3 / 4
    )
    noise_scheduler = DDPMScheduler(num_train_timesteps=1000, beta_schedule="linear")
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=1e-4, betas=(0.95, 0.999), weight_decay=1e-6, eps=1e-8
    )
    loader = torch.utils.data.DataLoader(
        Images(case.images()), case.batch_size, shuffle=True, drop_last=True
    )
    lr_scheduler = get_scheduler(
        "cosine", optimizer, num_warmup_steps=500, num_training_steps=case.total_steps
    )
    batches = endless(loader)

    def train(steps: int) -> None:
        model.train()
        for batch in itertools.islice(batches, steps):
            clean_images = batch["input"].to(device, torch.float32)
            noise = torch.randn(clean_images.shape, dtype=torch.float32, device=device)
            timesteps = torch.randint(
                0,
                noise_scheduler.config.num_train_timesteps,
                (clean_images.shape[0],),
                device=device,
            ).long()
            noisy_images = noise_scheduler.add_noise(clean_images, noise, timesteps)
            with case.autocast():
                model_output = network(noisy_images, timesteps).sample
            loss = F.mse_loss(model_output.float(), noise.float())
            torch.autograd.backward(loss)
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            lr_scheduler.step()
            optimizer.zero_grad()
            ema_model.step(model.parameters())
            # what the example logs after every step
            _ = {"loss": loss.detach().item(), "lr": lr_scheduler.get_last_lr()[0]}

    return train


class Images(torch.utils.data.Dataset[dict[str, Tensor]]):
    """What the example's dataset gives, without the decoding and augmenting."""

    def __init__(self, images: Tensor) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"input": self.images[index]}


def endless(batches: Iterable[dict[str, Tensor]]) -> Iterator[dict[str, Tensor]]:
    while True:
        yield from batches


Speed = Callable[[int], float]
"""Trains for so many steps; returns images a second."""


def in_this_process(build: BuildLoop, case: Case) -> Speed:
    torch.set_num_threads(1)
    loop = build(case)

    def speed(steps: int) -> float:
        started = time.perf_counter()
        loop(steps)
        if case.device == "cuda":
            torch.cuda.synchronize()
        return steps * case.batch_size / (time.perf_counter() - started)

    return speed


def in_its_own_process(build: BuildLoop, case: Case) -> Speed:
    here, there = multiprocessing.Pipe()
    context = multiprocessing.get_context("spawn")
    context.Process(target=_serve, args=(there, build, case), daemon=True).start()

    def speed(steps: int) -> float:
        here.send(steps)
        return float(here.recv())

    return speed


def _serve(pipe: Connection, build: BuildLoop, case: Case) -> None:
    speed = in_this_process(build, case)
    with contextlib.suppress(EOFError):  # the other end has all it wanted
        while True:
            pipe.send(speed(pipe.recv()))


def compare(loops: dict[str, Speed], repeats: int, steps: int) -> dict[str, list[float]]:
    """Images a second of each loop in each repeat; who goes first alternates."""
    speeds: dict[str, list[float]] = {name: [] for name in loops}
    for repeat in range(-1, repeats):  # the first round warms up and is not counted
        for name in sorted(loops, reverse=repeat % 2 == 0):
            speed = loops[name](steps)
            if repeat >= 0:
                speeds[name].append(speed)
    return speeds


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer repeats: some 15 s")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--own-processes", action="store_true", help="one process for each loop")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--compile", action="store_true", help="torch.compile, for both")
    parser.add_argument("--size", type=int, help="random colour images instead of the digits")
    parser.add_argument("--channels", type=int, nargs="+", default=[16, 32])
    options = parser.parse_args()
    repeats, steps = (20, 10) if options.quick else (80, 10)

    case = Case(
        options.batch_size,
        (repeats + 1) * steps,
        options.device,
        options.precision,
        options.compile,
        options.size,
        tuple(options.channels),
    )
    place = in_its_own_process if options.own_processes else in_this_process
    loops = {"stepsearch": place(our_loop, case), "diffusers": place(diffusers_loop, case)}
    speeds = compare(loops, repeats, steps)
    ratios = [ours / theirs for ours, theirs in zip(*speeds.values(), strict=True)]
    for name, values in [*speeds.items(), ("ratio", ratios)]:
        median = statistics.median(values)
        print(f"{name:12s} {median:10.3f}   ({min(values):.3f} to {max(values):.3f})")
    result = {
        "benchmark": "loop_against_diffusers",
        "own_processes": options.own_processes,
        **dataclasses.asdict(case),
        "repeats": repeats,
        "steps_a_repeat": steps,
        "images_per_second": {k: round(statistics.median(v), 1) for k, v in speeds.items()},
        "ratio": round(statistics.median(ratios), 4),
        "ratio_quartiles": [round(q, 4) for q in statistics.quantiles(ratios)[::2]],
        "ratio_range": [round(min(ratios), 4), round(max(ratios), 4)],
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
