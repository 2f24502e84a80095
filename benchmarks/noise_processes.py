"""Train one denoiser on every noise process, with uniform timesteps, and judge its images.

Digits and 600 steps of 64 images, as in the search that `python run_search.py` runs; a row is the
mean over the seeds. A sheet of samples for each row is written to --pictures. About a minute of
one CPU a process and seed.

    python benchmarks/noise_processes.py [--seeds 1] [--only vp edm] [--pictures FOLDER]

The last line is a JSON object.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import torch

from stepsearch.evaluation.judge import Judge
from stepsearch.pictures import sample_grid
from stepsearch.sampling.sampler import SamplerConfig, generate
from trainers import trainer
from trainers.judging import judge_of


class Case(NamedTuple):
    noise: dict[str, Any]
    target: str
    samplers: tuple[str, ...]


CASES = {
    "vp": Case({"schedule": "linear"}, "epsilon", ("ddim",)),
    "zero_snr": Case({"schedule": "linear", "zero_terminal_snr": True}, "v_prediction", ("ddim",)),
    "edm": Case({"kind": "edm"}, "edm", ("euler", "dpm")),
    "flow": Case({"kind": "flow"}, "flow", ("euler",)),
}
STEPS = (10, 20, 50)
SCORES = ("fd_digits", "precision", "recall", "off_manifold")
IMAGES = 38_400

Scores = dict[str, float]


def scores(name: str, seed: int, judge: Judge, pictures: Path | None) -> dict[str, Scores]:
    """What each sampler's images are worth, by sampler and number of steps."""
    case = CASES[name]
    config = trainer(
        noise=case.noise,
        training={"lr": 8e-3, "prediction_type": case.target},
        sampler={"kind": case.samplers[0]},
    )
    config.check(workers=1)
    training = config.training_for(seed, IMAGES)
    training.run(IMAGES)
    found = {}
    for kind in case.samplers:
        for steps in STEPS:
            images = generate(
                training.ema,
                training.process,
                SamplerConfig(kind=kind, num_steps=steps),
                1000,
                shape=(1, 8, 8),
                prediction_type=config.training.prediction_type,
                seed=0,
            )
            row = f"{name} {kind} {steps}"
            scored = judge.score(images)
            found[row] = {key: scored[key] for key in SCORES}
            if pictures and seed == 0:
                sheet = pictures / f"{row.replace(' ', '-')}.png"
                sample_grid(images[:16].numpy()).save(sheet)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--only", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--pictures", type=Path)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    if asked.pictures:
        asked.pictures.mkdir(parents=True, exist_ok=True)
    result: dict[str, Scores] = {}
    print(f"{'':18s}" + "".join(f"{score:>14s}" for score in SCORES))
    with TemporaryDirectory() as scratch:
        config = trainer()
        judge = judge_of(config.judge, config.dataset, Path(scratch))
        for name in asked.only:
            runs = [scores(name, seed, judge, asked.pictures) for seed in range(asked.seeds)]
            for row in runs[0]:
                values = {s: [run[row][s] for run in runs] for s in SCORES}
                result[row] = {s: float(np.mean(values[s])) for s in SCORES}
                numbers = "".join(f"{result[row][score]:14.3f}" for score in SCORES)
                print(f"{row:18s}{numbers}", flush=True)
    print(json.dumps({"benchmark": "noise_processes", "seeds": asked.seeds, **result}))


if __name__ == "__main__":
    main()
