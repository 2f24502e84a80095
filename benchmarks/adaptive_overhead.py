"""What a strategy that learns costs: its steps against those of uniform timesteps.

All trainings are of the default U-Net on digits, in one process on one thread, taking turns in
blocks of 40 steps, so that each block holds exactly one step of the adaptive policy. Beside our
defaults runs the recipe of the paper (arXiv 2411.09998, Table 7): all 1000 timesteps for the
queue, all images for the rewards, its policy network. Measured are CPU-seconds of the process,
which what else runs on the machine disturbs little.

    python benchmarks/adaptive_overhead.py [--rounds 4] [--batch-size 128] [--only KIND ...]

The last line is a JSON object.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time

import torch

from stepsearch.diffusion.datasets import DigitsConfig
from stepsearch.diffusion.denoisers import UNetConfig
from stepsearch.diffusion.noise import VPConfig
from stepsearch.diffusion.training import Training, TrainingConfig
from stepsearch.strategies import StrategyConfig, strategy
from stepsearch.strategies.adaptive import PAPER

BLOCK = 40
CONTENDERS: dict[str, StrategyConfig] = {
    "uniform": strategy("uniform"),
    "adaptive": strategy("adaptive"),
    "adaptive (paper)": strategy("adaptive", **PAPER),
    "loss_second_moment": strategy("loss_second_moment"),
    "vdm_adaptive": strategy("vdm_adaptive"),
    "infonoise": strategy("infonoise", warmup=0),
    "edm2_uncertainty": strategy("edm2_uncertainty"),
    "decl": strategy("decl"),
    "gradient_variance": strategy("gradient_variance"),
}


def training(config: StrategyConfig, batch_size: int) -> Training:
    process, data = VPConfig().build(), DigitsConfig().load()
    return Training(
        TrainingConfig(batch_size=batch_size),
        UNetConfig().build(data.shape, seed=0),
        process,
        config.build(process.alpha_bar),
        data.train,
        budget=2**40,
        seed=0,
    )


def seconds_a_step(contender: Training, steps: int) -> float:
    begun = time.process_time()
    contender.run(contender.images_seen + steps * contender.config.batch_size)
    return (time.process_time() - begun) / steps


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--only", nargs="+", choices=list(CONTENDERS), default=list(CONTENDERS))
    options = parser.parse_args()
    torch.set_num_threads(1)
    names = ["uniform", *(name for name in options.only if name != "uniform")]
    contenders = {name: training(CONTENDERS[name], options.batch_size) for name in names}
    for contender in contenders.values():
        seconds_a_step(contender, 1)  # allocates; a policy makes its first step
        contender.images_seen = 0  # and blocks begin with one
    ratios: dict[str, list[float]] = {name: [] for name in names}
    plain: list[float] = []
    for turn in range(options.rounds):
        order = names if turn % 2 else names[::-1]
        seconds = {name: seconds_a_step(contenders[name], BLOCK) for name in order}
        plain.append(seconds["uniform"])
        for name in names:
            ratios[name].append(seconds[name] / seconds["uniform"])
    for name, values in ratios.items():
        median = statistics.median(values)
        print(f"{name:20s} {median:6.3f}   ({min(values):.3f} to {max(values):.3f})")
    result = {
        "benchmark": "adaptive_overhead",
        "batch_size": options.batch_size,
        "rounds": options.rounds,
        "steps_a_round": BLOCK,
        "uniform_cpu_s_a_step": round(statistics.median(plain), 4),
        "over_uniform": {k: round(statistics.median(v), 4) for k, v in ratios.items()},
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
