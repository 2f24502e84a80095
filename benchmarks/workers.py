"""From one worker to two: images a second, and what the exchange of gradients takes of them.

The workers of a lane (Ray Train) run stepsearch's loop. The peer is plain torch: the loop of
diffusers' example in DistributedDataParallel, with a DistributedSampler, in processes of
torch.multiprocessing. All train the same network on the same images at the same global batch, on
one thread a worker; two exchange gradients through gloo. The four groups stay up and take turns,
block by block, so that all meet the same disturbances.

Two workers train some blocks without exchanging gradients. What the exchange takes, waiting for
the slower worker included, is 1 - seconds without / seconds with. On a machine that is not idle
two workers wait for two free cores: the CPU-seconds of all workers together leave such waiting
out. They say what two can be at best, 2 x those of one / those of two.

    python benchmarks/workers.py [--quick] [--batch-size 64] [--size 32 --channels 32 64]

The last line is a JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import itertools
import json
import multiprocessing
import statistics
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler

from benchmarks.loop_against_diffusers import Case, Images, endless
from stepsearch.cluster import connect
from stepsearch.diffusion.workers import Workers


@dataclass(frozen=True)
class Block:
    """So many steps."""

    steps: int
    exchange: bool = True
    """Whether two workers exchange gradients; they then train what one would."""


Loop = Callable[[Block], None]


class Took(NamedTuple):
    """What a block took."""

    wall_s: float
    """From all workers' beginning to all workers' end."""
    cpu_s: float
    """Of all workers together."""


Group = Callable[[Block], Took]
"""Workers that stay up: they train a block, and say what it took."""


def our_loop(case: Case, workers: Workers) -> Loop:
    """stepsearch's, as a lane's worker has it."""
    from stepsearch.diffusion.noise import VPConfig
    from stepsearch.diffusion.training import Training, TrainingConfig
    from stepsearch.strategies import UniformConfig

    process = VPConfig().build()
    training = Training(
        TrainingConfig(batch_size=case.batch_size, lr=1e-4, warmup_steps=500, ema_decay=0.9999),
        case.denoiser(),
        process,
        UniformConfig().build(process.alpha_bar),
        case.images(),
        budget=case.batch_size * case.total_steps,
        seed=0,
        workers=workers,
    )

    def train(block: Block) -> None:
        with nullcontext() if block.exchange else training._parallel.alone():
            training.run(training.images_seen + case.batch_size * block.steps)

    return train


def plain_loop(case: Case, workers: Workers) -> Loop:
    """diffusers' example in torch's DistributedDataParallel."""
    from diffusers import DDPMScheduler
    from diffusers.optimization import get_scheduler
    from diffusers.training_utils import EMAModel

    model = case.denoiser()
    network: Any = DistributedDataParallel(model) if workers.size > 1 else model
    ema_model = EMAModel(model.parameters(), decay=0.9999, use_ema_warmup=True)
    noise_scheduler = DDPMScheduler(num_train_timesteps=1000, beta_schedule="linear")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    lr_scheduler = get_scheduler("constant_with_warmup", optimizer, num_warmup_steps=500)
    images, share = Images(case.images()), case.batch_size // workers.size
    sampler: Any = DistributedSampler(images, workers.size, workers.rank, drop_last=True)
    batches = endless(DataLoader(images, share, sampler=sampler, drop_last=True))

    def train(block: Block) -> None:
        apart = isinstance(network, DistributedDataParallel) and not block.exchange
        with network.no_sync() if apart else nullcontext():
            for batch in itertools.islice(batches, block.steps):
                clean_images = batch["input"]
                noise = torch.randn_like(clean_images)
                timesteps = torch.randint(0, 1000, (len(clean_images),))
                noisy_images = noise_scheduler.add_noise(clean_images, noise, timesteps)
                loss = F.mse_loss(network(noisy_images, timesteps).sample, noise)
                torch.autograd.backward(loss)
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                lr_scheduler.step()
                optimizer.zero_grad()
                ema_model.step(model.parameters())
                loss.item()  # the example logs it after every step

    return train


def timed(train: Loop, block: Block, workers: Workers) -> Took:
    """Called by all workers; all of them hear the same CPU-seconds."""
    workers.sum(torch.zeros(1))
    wall, cpu = time.perf_counter(), time.process_time()
    train(block)
    used = workers.sum(torch.tensor([time.process_time() - cpu]))
    return Took(time.perf_counter() - wall, float(used))


class Turns:
    """The actor between the driver and a lane's workers: what is to be done, what it took."""

    def __init__(self) -> None:
        self._blocks: list[Block | None] = []
        self._took: list[Took] = []
        self._changed = asyncio.Condition()

    async def train(self, block: Block | None) -> Took:
        """Have a block trained; None sends the workers home."""
        async with self._changed:
            self._blocks.append(block)
            self._changed.notify_all()
            await self._changed.wait_for(
                lambda: block is None or len(self._took) == len(self._blocks)
            )
            return self._took[-1]

    async def next(self, index: int) -> Block | None:
        async with self._changed:
            await self._changed.wait_for(lambda: len(self._blocks) > index)
            return self._blocks[index]

    async def done(self, took: Took) -> None:
        async with self._changed:
            self._took.append(took)
            self._changed.notify_all()


def lane_worker(config: dict[str, Any]) -> None:
    """The Ray Train loop of one worker."""
    import ray
    import ray.train

    torch.set_num_threads(1)
    context, turns = ray.train.get_context(), config["turns"]
    workers = Workers(context.get_world_rank(), context.get_world_size())
    train = our_loop(config["case"], workers)
    for index in itertools.count():
        block = ray.get(turns.next.remote(index))
        if block is None:
            return
        took = timed(train, block, workers)
        if workers.rank == 0:
            ray.get(turns.done.remote(took))


@contextmanager
def lane(case: Case, size: int, folder: Path) -> Iterator[Group]:
    """A lane of so many Ray Train workers, as searches have them."""
    import ray
    import ray.train

    from stepsearch.search.hold import Hold
    from stepsearch.search.lane_trainer import LaneTrainer

    turns = ray.remote(Turns).options(num_cpus=0, max_concurrency=100).remote()
    trainer = LaneTrainer(
        lane_worker,
        hold=Hold(),
        lost=lambda: False,
        sizes=(size,),
        train_loop_config={"case": case, "turns": turns},
        scaling_config=ray.train.ScalingConfig(num_workers=size, resources_per_worker={"CPU": 1}),
        run_config=ray.train.RunConfig(name=f"lane-{size}", storage_path=str(folder)),
    )
    thread = threading.Thread(target=trainer.fit, daemon=True)
    thread.start()
    yield lambda block: Took(*ray.get(turns.train.remote(block)))
    ray.get(turns.train.remote(None))
    thread.join()


def plain_worker(pipe: Connection, case: Case, workers: Workers, meeting: Path) -> None:
    """One process of the peer."""
    torch.set_num_threads(1)
    if workers.size > 1:
        torch.distributed.init_process_group(
            "gloo", f"file://{meeting}", world_size=workers.size, rank=workers.rank
        )
    train = plain_loop(case, workers)
    while block := pipe.recv():
        pipe.send(timed(train, block, workers))


@contextmanager
def processes(case: Case, size: int, folder: Path) -> Iterator[Group]:
    """So many processes of plain torch."""
    context = multiprocessing.get_context("spawn")
    pipes = [context.Pipe() for _ in range(size)]
    started = [
        context.Process(
            target=plain_worker,
            args=(there, case, Workers(rank, size), folder / f"meeting-{size}"),
            daemon=True,
        )
        for rank, (_, there) in enumerate(pipes)
    ]
    for process in started:
        process.start()

    def said(block: Block | None) -> None:
        for here, _ in pipes:
            here.send(block)

    def train(block: Block) -> Took:
        said(block)
        return max(Took(*here.recv()) for here, _ in pipes)

    yield train
    said(None)
    for process in started:
        process.join()


Key = tuple[str, int, bool]
"""Who, how many workers, and whether they exchange gradients."""


def compare(
    groups: dict[tuple[str, int], Group], repeats: int, steps: int
) -> dict[Key, list[Took]]:
    """What a block takes, once a repeat; who goes first alternates."""
    turns = [(who, n, exchange) for who, n in groups for exchange in (True, False)[:n]]
    took: dict[Key, list[Took]] = {turn: [] for turn in turns}
    for repeat in range(-1, repeats):  # the first round warms up and is not counted
        for who, size, exchange in turns[:: 1 if repeat % 2 else -1]:
            found = groups[who, size](Block(steps, exchange))
            if repeat >= 0:
                took[who, size, exchange].append(found)
    return took


def quotients(above: Iterable[float], below: Iterable[float]) -> list[float]:
    """Round by round."""
    return [a / b for a, b in zip(above, below, strict=True)]


def spread(values: list[float]) -> dict[str, Any]:
    """The median and the quartiles."""
    median, quartiles = statistics.median(values), statistics.quantiles(values)[::2]
    return {"median": round(median, 4), "quartiles": [round(q, 4) for q in quartiles]}


def measured(took: dict[Key, list[Took]], who: str, images: int) -> dict[str, Any]:
    """Of one of the two, with blocks of so many images."""
    one, two, apart = (took[who, n, ex] for n, ex in ((1, True), (2, True), (2, False)))
    wall = [[block.wall_s for block in blocks] for blocks in (one, two, apart)]
    cpu = [[block.cpu_s for block in blocks] for blocks in (one, two, apart)]
    return {
        "images_per_second": [round(images / statistics.median(s)) for s in wall[:2]],
        "two_over_one": spread(quotients(wall[0], wall[1])),
        "lost_to_exchange": spread([1 - part for part in quotients(wall[2], wall[1])]),
        "cpu_ms_an_image": [round(1e3 * statistics.median(s) / images, 3) for s in cpu[:2]],
        "two_over_one_at_best": spread([2 * part for part in quotients(cpu[0], cpu[1])]),
        "cpu_lost_to_exchange": spread([1 - part for part in quotients(cpu[2], cpu[1])]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer repeats: about a minute")
    parser.add_argument("--batch-size", type=int, default=64, help="of all workers together")
    parser.add_argument("--size", type=int, help="random colour images instead of the digits")
    parser.add_argument("--channels", type=int, nargs="+", default=[16, 32])
    options = parser.parse_args()
    repeats, steps = (10, 10) if options.quick else (40, 10)

    total, channels = 2 * (repeats + 1) * steps, tuple(options.channels)
    case = Case(options.batch_size, total, "cpu", "float32", False, options.size, channels)
    with TemporaryDirectory() as scratch, connect("local", cpus=3), ExitStack() as stack:
        groups = {
            (who, size): stack.enter_context(start(case, size, Path(scratch)))
            for who, start in (("stepsearch", lane), ("torch", processes))
            for size in (1, 2)
        }
        took = compare(groups, repeats, steps)

    result: dict[str, Any] = {"benchmark": "workers", **dataclasses.asdict(case)}
    result |= {"repeats": repeats, "steps_a_block": steps}
    for who in ("stepsearch", "torch"):
        found = result[who] = measured(took, who, steps * case.batch_size)
        one, two = found["images_per_second"]
        times, best = found["two_over_one"]["median"], found["two_over_one_at_best"]["median"]
        lost = found["lost_to_exchange"]["median"], found["cpu_lost_to_exchange"]["median"]
        print(
            f"{who:10s} {one:6d} -> {two:6d} images/s, {times:.2f} times; the exchange takes "
            f"{lost[0]:.1%}; by CPU-seconds {best:.2f} times at best, {lost[1]:.1%}"
        )
    both = [[block.wall_s for block in took[who, 2, True]] for who in ("torch", "stepsearch")]
    result["ratio"] = spread(quotients(*both))
    print(f"ratio      {result['ratio']['median']:.3f}: two workers' images/s over torch's")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
