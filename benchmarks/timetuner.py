"""What each way of tuning a sampler's times is worth, by distances that none of them lowers.

    python benchmarks/timetuner.py [--seeds 3] [--num-steps 5 10 20] [--samplers ddim heun ...]
        [--methods NAME ...] [--strategy speed] [--dataset mnist] [--processes 2]
        [--denoisers FOLDER] [--out FILE.csv] [--as-it-is] [--wide]

Trains a denoiser a seed (3000 steps). Sequential and parallel lower the paper's eq. 9 and 11 as it
does, "smooth sequential" with times around tau, all others one and the same number: the energy
distance of 512 drawn images to the data, in pixels; "levels and tau", which runs if named, moves
the sampler's noise levels as well.
Every method is judged on images of other noise by fd, pixel_fd and off_manifold; seconds are CPU
seconds of one thread. A row is appended to the CSV when it is measured and is not measured again;
--as-it-is only compares what is there. The last line is a JSON object.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from benchmarks.recording import dataset
from benchmarks.ways_of_tuning import LEVELS, METHODS
from stepsearch.diffusion.noise.vp import VPProcess
from stepsearch.pixels import scaled
from stepsearch.sampling.guidance import predictor
from stepsearch.sampling.timetuner import (
    EndToEndConfig,
    Network,
    SolverConfig,
    draw,
    evaluate,
    measure_gamma,
    tune_jointly,
)
from trainers.denoising import DenoisingConfig
from trainers.judging import judge_of

CURVES = Path(__file__).parent / "curves" / "timetuner.csv"
TRAININGS = 3000
"""Steps of a denoiser's training."""
HELD_OUT_SEEDS = (7, 8)
SAMPLERS = {
    "ddim": SolverConfig(clip_sample=True),
    "ddim quadratic": SolverConfig(trajectory="quadratic"),
    "ddpm": SolverConfig(kind="ddpm", clip_sample=True),
    "euler": SolverConfig(kind="euler"),
    "heun": SolverConfig(kind="heun", trajectory="edm"),
    "dpm_solver_2": SolverConfig(kind="dpm_solver_2", trajectory="log_snr"),
    "dpmpp_2m": SolverConfig(kind="dpmpp_2m"),
    "unipc": SolverConfig(kind="unipc"),
    "analytic_ddim": SolverConfig(kind="analytic_ddim", clip_sample=True),
    "analytic_ddpm": SolverConfig(kind="analytic_ddpm", clip_sample=True),
    "ddim unclipped": SolverConfig(),
    **{
        f"{kind} {trajectory}": SolverConfig(kind=kind, trajectory=trajectory)
        for kind in ("ddim", "dpmpp_2m")
        for trajectory in ("log_snr", "ays", "gits", "score_optimal", "dmn")
    },
}


class Case(NamedTuple):
    """A denoiser and a sampler: a row's first columns, but for the method."""

    dataset: str
    strategy: str
    seed: int
    sampler: str
    num_steps: int


KEY = [*Case._fields, "method"]
AT = [name for name in Case._fields if name != "seed"]
MEANS = ("fd", "pixel_fd", "off_manifold", "cpu_s")


def configured(case: Case, folder: Path) -> DenoisingConfig:
    """What is trained."""
    changes: dict[str, Any] = {"dataset": dataset(case.dataset, folder)}
    changes["strategy"] = {"kind": case.strategy}
    changes["training"] = {"lr": 4e-3, "ema_decay": 0.995}
    return DenoisingConfig.model_validate(changes)


def trained(case: Case, config: DenoisingConfig, folder: Path) -> nn.Module:
    """The averaged denoiser, from a file where another process has left one."""
    file = folder / f"{case.dataset}-{case.strategy}-{case.seed}.pt"
    training = config.training_for(case.seed, TRAININGS * config.training.batch_size)
    if not file.exists():
        training.run(training.budget)
        torch.save(training.ema.state_dict(), file)
    denoiser = training.ema
    denoiser.load_state_dict(torch.load(file, weights_only=True))
    return denoiser.requires_grad_(False)


def measure(case: Case, methods: list[str], folder: Path) -> pd.DataFrame:
    """A row a method. Called in a worker process."""
    torch.set_num_threads(1)
    config = configured(case, folder)
    denoiser, data = trained(case, config, folder), config.dataset.load()
    images = scaled(data.train)
    sampler = SAMPLERS[case.sampler].model_copy(update={"num_steps": case.num_steps})
    process = config.noise.build()
    assert isinstance(process, VPProcess)

    def build(sampler: SolverConfig) -> Network:
        analytic = sampler.kind.startswith("analytic")
        gamma = _gamma(denoiser, process, sampler, images) if analytic else None
        return Network(
            evaluate(denoiser), sampler.build(process.scheduler_config(), "epsilon", gamma)
        )

    judge = judge_of(config.judge, config.dataset, folder)
    network, rows = build(sampler), []
    for method in methods:
        if method == LEVELS:
            begun = time.process_time()
            moved = tune_jointly(build, sampler, images, EndToEndConfig())
            under, tau = moved.network, moved.tuned.tau
            cpu_s = time.process_time() - begun
        else:
            under, (tau, cpu_s) = network, METHODS[method](network, images)
        row = {**case._asdict(), "method": method, "cpu_s": cpu_s}
        found = [
            judge.score(draw(under, tau, 1000, shape=data.shape, seed=seed))
            for seed in HELD_OUT_SEEDS
        ]
        row |= {key: float(np.mean([scores[key] for scores in found])) for key in found[0]}
        rows.append(row)
    table = pd.DataFrame(rows)
    return table.rename(columns=lambda name: name.removesuffix(f"_{case.dataset}"))


def _gamma(
    denoiser: nn.Module, process: VPProcess, sampler: SolverConfig, images: Tensor
) -> Tensor:
    """What an analytic sampler knows of the network."""
    times = sampler.times(process.alpha_bar).astype(int).tolist()
    chance = torch.Generator().manual_seed(0)
    some = images[torch.randperm(len(images), generator=chance)[:512]]
    noise = torch.randn(some.shape, generator=chance)
    alpha_bar = torch.tensor(process.alpha_bar)
    return measure_gamma(predictor(denoiser, None), alpha_bar, times, some, noise)


def record(cases: list[Case], methods: list[str], out: Path, processes: int, folder: Path) -> None:
    """The rows that the file lacks. A seed's denoiser is trained before its cases begin."""
    known = set(map(tuple, pd.read_csv(out)[KEY].values)) if out.exists() else set()
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, context) as pool:
        wanted = {c: [m for m in methods if (*c, m) not in known] for c in cases}
        wanted = {case: lacking for case, lacking in wanted.items() if lacking}
        first = {(case.strategy, case.seed): case for case in reversed(wanted)}
        for done in [pool.submit(measure, case, [], folder) for case in first.values()]:
            done.result()
        running = {pool.submit(measure, c, lacking, folder): c for c, lacking in wanted.items()}
        for done in as_completed(running):
            rows = done.result()
            if out.exists():  # begun when the judge had other scores
                rows = rows.reindex(columns=pd.read_csv(out, nrows=0).columns)
            rows.to_csv(out, mode="a", header=not out.exists(), index=False, float_format="%.5g")
            print(running[done], flush=True)


def compare(table: pd.DataFrame) -> list[dict[str, Any]]:
    """A row a case and method: means over the seeds, and each seed's ratio to untuned."""
    untuned = table[table["method"] == "untuned"].set_index([*AT, "seed"])
    found = []
    for key, rows in table.groupby([*AT, "method"], sort=False):
        base = untuned.loc[[(*key[:-1], seed) for seed in rows["seed"]]]
        row: dict[Any, Any] = dict(zip([*AT, "method"], key, strict=True))
        row |= {name: round(float(rows[name].mean()), 4) for name in MEANS}
        for name in ("fd", "pixel_fd"):
            ratios = rows[name].to_numpy() / base[name].to_numpy()
            row[f"{name}_ratios"] = [round(float(ratio), 3) for ratio in ratios]
        found.append(row)
    return found


def show(found: list[dict[str, Any]]) -> None:
    """Print a row a case and method."""
    print("| " + " | ".join([*AT, "method"]) + " | fd | ratio (range) | pixel_fd | ratio (range) "
          "| off_manifold | CPU-s |")  # fmt: skip
    print("|" + " --- |" * 11)
    for row in found:
        cells = [str(row[name]) for name in [*AT, "method"]]
        for name in ("fd", "pixel_fd"):
            cells += [f"{row[name]:.3f}", _spread(row[f"{name}_ratios"])]
        cells += [f"{row['off_manifold']:.3f}", f"{row['cpu_s']:.0f}"]
        print("| " + " | ".join(cells) + " |")


def show_wide(found: list[dict[str, Any]]) -> None:
    """Print a row a case and a column a method: untuned fd, and what is left of it."""
    methods = list(dict.fromkeys(row["method"] for row in found))
    print("| " + " | ".join([*AT, *methods]) + " |")
    print("|" + " --- |" * (len(AT) + len(methods)))
    for case in dict.fromkeys(tuple(row[name] for name in AT) for row in found):
        rows = {row["method"]: row for row in found if tuple(row[name] for name in AT) == case}
        cells = [_spread(rows[name]["fd_ratios"]) if name in rows else "" for name in methods]
        cells[0] = f"{rows['untuned']['fd']:.3f}"
        print("| " + " | ".join([*map(str, case), *cells]) + " |")


def _spread(ratios: list[float]) -> str:
    """Their geometric mean and range."""
    return f"{np.exp(np.log(ratios).mean()):.2f} ({min(ratios):.2f}-{max(ratios):.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--dataset", choices=("digits", "mnist"), default="digits")
    parser.add_argument("--strategy", nargs="+", default=["uniform"], help="of the training")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--samplers", nargs="+", choices=SAMPLERS, default=["ddim"])
    parser.add_argument("--num-steps", type=int, nargs="+", default=[5, 10, 20])
    parser.add_argument("--methods", nargs="+", choices=[*METHODS, LEVELS], default=list(METHODS))
    parser.add_argument("--processes", type=int, default=2, help="of one thread each")
    parser.add_argument("--denoisers", type=Path, metavar="FOLDER", help="where to keep them")
    parser.add_argument("--out", type=Path, default=CURVES, metavar="FILE.csv")
    parser.add_argument("--as-it-is", action="store_true", help="measure nothing more")
    parser.add_argument("--wide", action="store_true", help="a column a method, fd alone")
    asked = parser.parse_args()
    methods = list(dict.fromkeys(["untuned", *asked.methods]))
    cases = [
        Case(asked.dataset, strategy, seed, sampler, steps)
        for strategy in asked.strategy
        for seed in range(asked.seeds)
        for sampler in asked.samplers
        for steps in asked.num_steps
    ]
    if not asked.as_it_is:
        with TemporaryDirectory() as scratch:
            folder = asked.denoisers or Path(scratch)
            record(cases, methods, asked.out, asked.processes, folder)
    table = pd.read_csv(asked.out)
    chosen = {(*case, method) for case in cases for method in methods}
    table = table[[tuple(key) in chosen for key in table[KEY].values]]
    order = {method: i for i, method in enumerate([*METHODS, LEVELS])}
    table = table.sort_values(
        ["dataset", "strategy", "sampler", "num_steps", "method", "seed"],
        key=lambda column: column.map(order) if column.name == "method" else column,
    )
    found = compare(table)
    (show_wide if asked.wide else show)(found)
    print(json.dumps({"benchmark": "timetuner", "rows": found}))


if __name__ == "__main__":
    main()
