"""Could a trial of tau be stopped halfway through its steps, by its distance to a teacher there?

    python benchmarks/knot_gaps.py [--seeds 3] [--num-steps 10] [--trials 64] [--denoisers FOLDER]

The teacher is DDIM in 10 times as many steps, which passes every noise level of the sampler, from
the same noise. Trials are drawn evenly from the box that a search proposes from (`anywhere`), and
closely around the end-to-end gradient's solution (`nearby`), where a search ends up. For each
step: the rank correlation (Spearman) of the distance to the teacher there with that of the
finished images, and with their energy distance to the data, which a search lowers by default; and
the share of trials that are closer to the teacher there than the one that ends best by energy: a
pruner at the median would stop that one if it is above one half. The last line is a JSON object.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from scipy.stats import spearmanr
from torch import Tensor

from benchmarks.timetuner import Case, configured, trained
from benchmarks.ways_of_tuning import end_to_end, in_order
from stepsearch.diffusion.seeds import generator
from stepsearch.evaluation.distances import energy_distance
from stepsearch.pixels import scaled
from stepsearch.sampling.timetuner import Network, ShiftedTimes, SolverConfig, evaluate

IMAGES, FINER = 512, 10
"""Of a trial; the teacher's steps for one of the sampler's."""
BOX, AROUND = (-0.2, 0.75), 0.15
"""Of the shifts, as in search_spaces/timetuner_digits.yaml; the deviation nearby."""


class Found(NamedTuple):
    """What a trial came to."""

    gaps: list[float]
    """After each step, to the teacher's state at that noise level; the last is the images'."""
    energy: float


@torch.no_grad()
def states(network: Network, tau: Tensor, x: Tensor) -> list[Tensor]:
    """After each evaluation, from noise x [N, C, H, W]; the last are the images."""
    state, found = network.solver.start(x), []
    for slot in range(network.solver.nfe):
        output = network.output(slot, network.solver.look(state), tau[slot])
        state = network.solver.advance(state, output)
        found.append(state.x)
    return [*found[:-1], network.finished(found[-1])]


def correlations(case: Case, trials: int, folder: Path) -> list[dict[str, object]]:
    """A row for each population of trials and step."""
    config = configured(case, folder)
    denoiser, data = trained(case, config, folder), scaled(config.dataset.load().train)
    noise = config.noise.build().scheduler_config()

    def network(steps: int) -> Network:
        sampler = SolverConfig(num_steps=steps, clip_sample=True)
        return Network(evaluate(denoiser), sampler.build(noise, "epsilon"))

    student, teacher = network(case.num_steps), network(FINER * case.num_steps)
    x = torch.randn(IMAGES, *data.shape[1:], generator=generator("gaps", case.seed))
    wanted = states(teacher, teacher.solver.times, x)[FINER - 1 :: FINER]
    nominal = student.solver.times
    at = ShiftedTimes(nominal.tolist(), 0, student.solver.top)

    def outcome(r: np.ndarray) -> Found:
        drawn = states(student, in_order(at, r), x)
        gaps = [
            float((own - its).flatten(1).norm(dim=1).mean())
            for own, its in zip(drawn, wanted, strict=True)
        ]
        return Found(gaps, float(energy_distance(data.flatten(1), drawn[-1].flatten(1))))

    chance = np.random.default_rng(case.seed)
    solution, shape = at.shifts(end_to_end(student, data).tau.tolist()), (trials, len(nominal) - 1)
    populations = {
        "anywhere": chance.uniform(*BOX, shape),
        "nearby": solution[:-1] + chance.normal(0, AROUND, shape),
    }
    rows: list[dict[str, object]] = []
    for name, shifts in populations.items():
        found = [outcome(np.append(r, 0.0)) for r in shifts]
        gaps, energy = np.array([f.gaps for f in found]), np.array([f.energy for f in found])
        best = int(energy.argmin())
        for step, own in enumerate(gaps.T):
            rows.append(
                {
                    "trials": name,
                    "seed": case.seed,
                    "after_step": step + 1,
                    "with_final_gap": float(spearmanr(own, gaps[:, -1]).statistic),
                    "with_energy": float(spearmanr(own, energy).statistic),
                    "closer_than_the_best": float((own < own[best]).mean()),
                }
            )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--num-steps", type=int, default=10)
    parser.add_argument("--trials", type=int, default=64)
    parser.add_argument("--denoisers", type=Path, metavar="FOLDER", help="where to keep them")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[dict[str, object]] = []
    with TemporaryDirectory() as scratch:
        for seed in range(asked.seeds):
            case = Case("digits", "uniform", seed, "ddim", asked.num_steps)
            rows += correlations(case, asked.trials, asked.denoisers or Path(scratch))
    table = pd.DataFrame(rows)
    print("| trials | after step | with the final gap | with the energy distance "
          "| closer than the best by energy |")  # fmt: skip
    print("|" + " --- |" * 5)
    for (name, step), some in table.groupby(["trials", "after_step"]):
        cells = [
            f"{some[key].mean():.2f} ({some[key].min():.2f} to {some[key].max():.2f})"
            for key in ("with_final_gap", "with_energy", "closer_than_the_best")
        ]
        print(f"| {name} | {step} | " + " | ".join(cells) + " |")
    print(json.dumps({"benchmark": "knot_gaps", "rows": rows}))


if __name__ == "__main__":
    main()
