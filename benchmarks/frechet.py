"""The Frechet distance of 50,000 cached features, with torchmetrics beside: time and memory.

Both read two sets of float32 features from the disk in batches, as those of a network that has
seen 50,000 images, sum means and covariances in float64 and take the distance. Each run is a
process of its own with one thread; they take turns. Seconds are the CPU's; memory is the process's
peak beyond what it held before it read the first batch. The features are correlated noise: the
time does not depend on what they are.

    python benchmarks/frechet.py [--images 50000] [--dimensions 2048] [--rounds 3] [--quick]

The last line is a JSON object.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.cost import measured

BATCH = 1000


class Run(NamedTuple):
    """What one process measured."""

    distance: float
    seconds: float
    mib: float


def write_features(file: Path, images: int, dimensions: int, seed: int) -> None:
    """Features of unequal variances that correlate, [images, dimensions]."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(dimensions, dimensions, generator=torch.Generator().manual_seed(9))
    mixing *= torch.linspace(1, 0.01, dimensions) / dimensions**0.5
    out = np.lib.format.open_memmap(file, "w+", np.float32, (images, dimensions))
    for first in range(0, images, BATCH):
        white = torch.randn(min(BATCH, images - first), dimensions, generator=generator)
        out[first : first + BATCH] = (white @ mixing.T + 0.1 * seed).numpy()


def batches(file: Path) -> Iterator[Tensor]:
    with file.open("rb") as opened:
        np.lib.format.read_magic(opened)
        (images, dimensions), _, _ = np.lib.format.read_array_header_1_0(opened)
        for _ in range(0, images, BATCH):
            batch = np.fromfile(opened, np.float32, BATCH * dimensions)
            yield torch.from_numpy(batch.reshape(-1, dimensions))


def ours(real: Path, fake: Path) -> float:
    from stepsearch.evaluation.distances import frechet_distance
    from stepsearch.evaluation.moments import Moments

    found = []
    for file in (real, fake):
        moments = Moments()
        for batch in batches(file):
            moments.add(batch)
        found.append(moments.statistics())
    return frechet_distance(*found[0], *found[1])


def torchmetrics(real: Path, fake: Path) -> float:
    from torchmetrics.image.fid import FrechetInceptionDistance

    class Cached(nn.Identity):
        """Features that need no network."""

        num_features = np.load(real, mmap_mode="r").shape[1]

    metric = FrechetInceptionDistance(Cached()).set_dtype(torch.float64)
    for file in (real, fake):
        for batch in batches(file):
            metric.update(batch.double(), real=file == real)
    return float(metric.compute())


def run(way: Callable[[Path, Path], float], real: Path, fake: Path) -> Run:
    torch.set_num_threads(1)
    small = [file.with_name(f"few_{file.name}") for file in (real, fake)]
    way(*small)  # imports, and what the first call sets up
    cost, distance = measured(lambda: way(real, fake))
    return Run(distance, cost.cpu_s, cost.peak_mib)


def in_a_process(way: Callable[[Path, Path], float], real: Path, fake: Path) -> Run:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(run, (way, real, fake))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--dimensions", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="5000 x 512, one round")
    given = parser.parse_args()
    if given.quick:
        given.images, given.dimensions, given.rounds = 5000, 512, 1
    return given


def main() -> None:
    given = arguments()
    runs: dict[str, list[Run]] = {"stepsearch": [], "torchmetrics": []}
    with TemporaryDirectory() as folder:
        real, fake = files = Path(folder, "real.npy"), Path(folder, "fake.npy")
        for seed, file in enumerate(files):
            write_features(file, given.images, given.dimensions, seed)
            write_features(file.with_name(f"few_{file.name}"), 2 * BATCH, 64, seed)
        for _ in range(given.rounds):
            for name, way in (("stepsearch", ours), ("torchmetrics", torchmetrics)):
                runs[name].append(in_a_process(way, real, fake))
                print(f"{name:13}", *(f"{value:.6g}" for value in runs[name][-1]), flush=True)
    print(json.dumps(summary(runs)))


def summary(runs: dict[str, list[Run]]) -> dict[str, Any]:
    own, theirs = (
        Run(*map(statistics.median, zip(*runs[name], strict=True)))
        for name in ("stepsearch", "torchmetrics")
    )
    return {
        "distance": own.distance,
        "relative_difference": abs(own.distance / theirs.distance - 1),
        "seconds": own.seconds,
        "speed_ratio": theirs.seconds / own.seconds,
        "mib": own.mib,
        "memory_ratio": theirs.mib / own.mib,
    }


if __name__ == "__main__":
    main()
