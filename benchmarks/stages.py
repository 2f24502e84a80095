"""Boundaries of stages on as many images as CIFAR-10 has: time, memory, and how both grow.

The images are synthetic: noise with an amplitude of f^-1.65 and channels that correlate by 0.9, as
in photographs, 32x32 pixels, with CIFAR-10's mean and standard deviation. Four parts:

- `stages` as a user runs it: 50,000 images of 3072 numbers, 5000 samples for each algorithm;
- its cost over the number of images and over the number of samples;
- the optimal denoiser against the plain way, all distances and one softmax, where that still fits;
- the largest difference between the two.

    python benchmarks/stages.py [--quick] [--workers 2 [--samples 5000]]

CPU-seconds are those of the process, both threads together: what else the machine does moves them
less than the wall time. With --workers there is one part only: one process of one thread against
so many workers of a local Ray cluster, each with a part of the images. The last line is a JSON
object.
"""

from __future__ import annotations

import argparse
import json
import threading
import time
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import psutil  # type: ignore[import-untyped]
import torch
from torch import Tensor

from benchmarks.cost import measured
from stepsearch.diffusion.stages import Points, StagesConfig, find_stages, pixels
from stepsearch.diffusion.stages.find import stages_of
from stepsearch.diffusion.stages.kernels import KERNELS
from stepsearch.diffusion.stages.optimal import OptimalDenoiser
from stepsearch.diffusion.stages.sharded import ShardedDenoiser
from stepsearch.search.sharding import sharded

SIZE, MEAN, DEVIATION, EXPONENT, GREYNESS = 32, 0.473, 0.251, 1.65, 0.9


def photograph_like(count: int) -> Tensor:
    """uint8 [count, 3, 32, 32]."""
    generator = torch.Generator().manual_seed(0)
    frequency = torch.fft.fftfreq(SIZE)
    radius = (frequency[:, None].square() + frequency.square()).sqrt()
    radius[0, 0] = 1 / SIZE
    images = torch.empty(count, 3, SIZE, SIZE, dtype=torch.uint8)
    for block in torch.split(images, 1000):
        grey = torch.randn(len(block), 1, SIZE, SIZE, generator=generator)
        own = torch.randn(block.shape, generator=generator)
        white = torch.fft.fft2(GREYNESS**0.5 * grey + (1 - GREYNESS) ** 0.5 * own)
        coloured = torch.fft.ifft2(white * radius**-EXPONENT).real
        scaled = coloured / coloured.std() * DEVIATION + MEAN
        block.copy_(scaled.mul_(255).round_().clamp_(0, 255))
    return images


def whole(points: Points, samples: int) -> dict[str, Any]:
    """`stages` from the images to the boundaries, with its progress and estimate."""
    started = time.perf_counter()
    shown = [0.0]

    def progress(share: float) -> None:
        if share >= shown[0] + 0.1:
            shown[0] = share
            seconds = time.perf_counter() - started
            print(f"  {share:4.0%} after {seconds:4.0f} s, estimate {seconds / share:4.0f} s")

    config = StagesConfig(samples=samples)
    cost, found = measured(lambda: find_stages(points, config, progress=progress))
    print(f"  {cost}\n  boundaries {found.boundaries}, others {found.others}")
    return asdict(cost) | {"boundaries": found.boundaries, "others": found.others}


def growth(points: Points, images: list[int], samples: list[int]) -> list[dict[str, Any]]:
    """CPU-seconds over each of the two, the other one fixed at its largest and smallest."""
    rows = []
    for count, k in [(n, samples[0]) for n in images] + [(images[0], k) for k in samples[1:]]:
        some = pixels(points.rows[:count])
        cost, _ = measured(partial(find_stages, some, StagesConfig(samples=k)))
        print(f"  N {count:6d}  K {k:5d}  {cost}", flush=True)
        rows.append({"images": count, "samples": k} | asdict(cost))
    return rows


def against_plain(points: Points, samples: int) -> dict[str, Any]:
    """Posterior means at `samples` times: ours, and all distances and one softmax in one piece."""
    random = np.random.default_rng(0)
    sigma = KERNELS["vp"].sigma(np.sort(random.uniform(1e-3, 1, samples)))[:, None]
    levels = torch.from_numpy(sigma).float()
    y = points.centred(
        points.rows[random.integers(len(points), size=samples)], torch.device("cpu")
    )
    noise = torch.from_numpy(random.standard_normal(y.shape, dtype=np.float32))
    denoiser = OptimalDenoiser(points)

    def ours() -> Tensor:
        parts = zip(*(torch.split(each, 512) for each in (y, noise, levels)), strict=True)
        return torch.cat([denoiser.posterior_mean(*part)[:, 0] for part in parts])

    def plain() -> Tensor:
        data = points.centred(points.rows, torch.device("cpu"))
        squared = torch.cdist(y + levels * noise, data).square()
        return (-squared / (2 * levels**2)).softmax(1) @ data

    (our_cost, our_mean), (plain_cost, plain_mean) = measured(ours), measured(plain)
    ratio = plain_cost.cpu_s / our_cost.cpu_s
    print(f"  ours  {our_cost}\n  plain {plain_cost}\n  ratio {ratio:.2f} in CPU-seconds")
    return {
        "images": len(points),
        "samples": samples,
        "ours": asdict(our_cost),
        "plain": asdict(plain_cost),
        "largest_difference": (our_mean - plain_mean).abs().max().item(),
    }


class Workers:
    """What the shards' processes take: CPU-seconds of all, and the most memory of one over what it
    began with, which is its own: neither the images in their file nor what Ray shares."""

    def __enter__(self) -> Workers:
        self.cpu_s, self.most_mib = 0.0, 0.0
        self._began: dict[int, float] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _follow(self) -> None:
        while not self._over.wait(0.1):
            with suppress(psutil.Error):  # one of Ray's processes may end while it is looked at
                everyone = psutil.Process().children(recursive=True)
                self._look(
                    [p for p in everyone if p.cmdline()[:1] and "::Shard" in p.cmdline()[0]]
                )

    def _look(self, shards: list[psutil.Process]) -> None:
        self.cpu_s = sum(sum(shard.cpu_times()[:2]) for shard in shards)
        for shard in shards:
            memory = shard.memory_info()
            own = (memory.rss - memory.shared) / 2**20
            self.most_mib = max(self.most_mib, own - self._began.setdefault(shard.pid, own))


def _read(file: Path) -> tuple[Tensor, bool]:
    return torch.from_numpy(np.load(file, mmap_mode="c")), True


def against_workers(images: int, samples: int, workers: int) -> dict[str, Any]:
    """One process of one thread, then of as many as workers, then the workers, each with a thread
    and a part of the images; they lie in a file for all."""
    config = StagesConfig(samples=samples)
    memory = config.memory * 2**20
    result: dict[str, Any] = {}
    with TemporaryDirectory() as folder:
        file = Path(folder) / "images.npy"
        np.save(file, photograph_like(images).numpy())
        for threads in (1, workers):
            torch.set_num_threads(threads)
            points = pixels(_read(file)[0])
            cost, found = measured(partial(find_stages, points, config))
            print(f"  one process, {threads} threads {cost}  {found.boundaries}", flush=True)
            result[f"threads_{threads}"] = asdict(cost) | {"boundaries": found.boundaries}
        shards = sharded(
            partial(_read, file), workers, signed=False, device=config.device, memory=memory
        )
        with shards as everywhere, Workers() as seen:
            denoiser = ShardedDenoiser(everywhere, memory=memory)
            cost, found = measured(partial(stages_of, denoiser, config))
    taken = {"workers_cpu_s": round(seen.cpu_s, 2), "a_worker_mib": round(seen.most_mib)}
    print(f"  {workers} workers {cost} {taken}  {found.boundaries}", flush=True)
    result["workers"] = asdict(cost) | taken | {"boundaries": found.boundaries}
    print(f"  {result['threads_1']['wall_s'] / cost.wall_s:.2f} times as fast as one thread")
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="5000 images and 1000 samples")
    parser.add_argument("--workers", type=int, metavar="W", help="against so many on a cluster")
    parser.add_argument("--samples", type=int, metavar="K", help="with --workers")
    options = parser.parse_args()
    images, samples = (5000, 1000) if options.quick else (50_000, 5000)
    if options.workers:
        samples = options.samples or samples
        print(f"{options.workers} workers: {images} images, {samples} samples", flush=True)
        print(json.dumps(against_workers(images, samples, options.workers)))
        return
    points = pixels(photograph_like(images))
    result: dict[str, Any] = {"benchmark": "stages", "images": images, "samples": samples}
    print(f"stages: {images} images, {samples} samples", flush=True)
    result["stages"] = whole(points, samples)
    print("growth", flush=True)
    counts = [images // 8, images // 4, images // 2, images]
    result["growth"] = growth(points, counts, [samples // 10, samples // 5, samples * 2 // 5])
    print("against the plain way", flush=True)
    some = pixels(points.rows[: images // 4])
    result["against_plain"] = against_plain(some, samples // 5)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
