"""Train a small denoiser in a process of its own; the tests start it, pytest does not collect it.

Prints the loss of every step as a JSON list, after the checkpoint is written.
"""

import argparse
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from stepsearch.diffusion.datasets import DigitsConfig
from stepsearch.diffusion.denoisers import MultistageUNetConfig, UNetConfig
from stepsearch.diffusion.noise import NoiseProcess, VPConfig
from stepsearch.diffusion.training import Training, TrainingConfig, Workers
from stepsearch.strategies import Strategy, strategy
from stepsearch.strategies.staged import build_staged

CONFIG = TrainingConfig(batch_size=8, warmup_steps=5, ema_decay=0.9)
# Every weight of this one has a gradient. A bias before a group norm of single channels, or of
# the attention's keys, has none but rounding, which AdamW would blow up to full steps.
DENOISER = UNetConfig(channels=(16, 32), groups=8, attention="none")
STAGES = MultistageUNetConfig(
    channels=(16, 32), decoders=((24, 48), (16, 16)), boundaries=(0.4,), attention="none"
)


def build(
    *,
    workers: Workers = Workers(),  # noqa: B008
    images: torch.Tensor | None = None,
    process: NoiseProcess | None = None,
    timesteps: Strategy | None = None,
    seed: int = 0,
    budget: int = 480,
    slices: int = 1,
    stages_a_worker: str | None = None,
    classes: int = 0,
    **changes: Any,
) -> Training:
    process = process or VPConfig().build()
    images = DigitsConfig().load().train[:100] if images is None else images
    denoiser: Any = DENOISER.build((1, *images.shape[2:]), seed, classes)
    starts: tuple[int, ...] = ()
    if stages_a_worker:
        config, data = STAGES, DigitsConfig().load()
        denoiser, starts = config.build_for(data, process, seed), config.starts(data, process)
        timesteps = build_staged(strategy("speed"), process.alpha_bar, "epsilon", starts)
    return Training(
        CONFIG.model_copy(update=changes),
        denoiser,
        process,
        timesteps or strategy("speed").build(process.alpha_bar),
        images,
        budget=budget,
        seed=seed,
        labels=DigitsConfig().load().train_labels[: len(images)],
        workers=workers,
        slices=slices,
        starts=starts,
        stages_apart=stages_a_worker == "one",
    )


def losses(training: Training, steps: int) -> Iterator[float]:
    for _ in range(steps):
        until = training.images_seen + training.config.batch_size
        yield training.run(until).mean_loss


def join(rank: int, size: int, rendezvous: Path) -> Workers:
    torch.distributed.init_process_group(
        "gloo", init_method=rendezvous.as_uri(), rank=rank, world_size=size
    )
    return Workers(rank=rank, size=size)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--load", type=Path)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--save", type=Path, required=True)
    parser.add_argument("--more", type=int, default=0, help="steps after the checkpoint")
    parser.add_argument("--rank", type=int, default=0)
    parser.add_argument("--rendezvous", type=Path, help="train on two workers that meet here")
    parser.add_argument("--slices", type=int, default=1, help="gradient accumulation")
    parser.add_argument("--classes", type=int, default=0, help="that the denoiser is told")
    parser.add_argument("--label_dropout", type=float, default=0.0)
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--strategy", type=json.loads, help="kind and parameters, as JSON")
    options = parser.parse_args()
    torch.set_num_threads(1)

    workers = join(options.rank, 2, options.rendezvous) if options.rendezvous else Workers()
    timesteps = None
    if options.strategy:
        timesteps = strategy(**options.strategy).build(VPConfig().build().alpha_bar)
    training = build(
        workers=workers,
        timesteps=timesteps,
        slices=options.slices,
        classes=options.classes,
        label_dropout=options.label_dropout,
        precision=options.precision,
    )
    if options.load:
        training.load(options.load)
    values = list(losses(training, options.steps))
    training.save(options.save)
    print(json.dumps(values), flush=True)
    training.run(training.images_seen + 8 * options.more)
    # Without destructors: that of DDP's reducer joins a gloo thread that may wait for the GIL.
    os._exit(0)


if __name__ == "__main__":
    main()
