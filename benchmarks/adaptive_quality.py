"""What the cheaper recipe of the adaptive policy gives up: held-out losses after equal steps.

Small denoisers of digits are trained with uniform timesteps, with our recipe and with that of the
paper (arXiv 2411.09998), whose policies learn every 10 steps because the training is short. The
averaged denoisers are then judged on the held-out digits at 50 timesteps, with the same noise for
all: the mean squared error, which is trained on, and the variational bound in bits a dimension,
which is what the policy is rewarded for.

    python benchmarks/adaptive_quality.py [--seeds 3] [--steps 1500]

The last line is a JSON object.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics

import numpy as np
import torch

from stepsearch.diffusion.datasets import DigitsConfig
from stepsearch.diffusion.denoisers import UNetConfig
from stepsearch.diffusion.noise import VPConfig
from stepsearch.diffusion.step import errors
from stepsearch.diffusion.training import Training, TrainingConfig
from stepsearch.strategies import StrategyConfig, strategy
from stepsearch.strategies.adaptive import PAPER
from stepsearch.strategies.weights import VlbConfig

BATCH = 64
CONTENDERS: dict[str, StrategyConfig] = {
    "uniform": strategy("uniform"),
    "adaptive": strategy("adaptive", every=10, lr=1e-2),
    "adaptive (paper)": strategy("adaptive", **{**PAPER, "every": 10, "lr": 1e-2}),
}


def train(config: StrategyConfig, seed: int, steps: int) -> Training:
    process, data = VPConfig().build(), DigitsConfig().load()
    training = Training(
        TrainingConfig(batch_size=BATCH),
        UNetConfig(channels=(8, 16)).build(data.shape, seed),
        process,
        config.build(process.alpha_bar),
        data.train,
        budget=BATCH * steps,
        seed=seed,
    )
    training.run(BATCH * steps)
    return training


@torch.no_grad()
def judge(training: Training) -> dict[str, float]:
    """Of the averaged denoiser, on the held-out images; and how far the policy went."""
    images, process = DigitsConfig().load().held_out, training.process
    source = torch.Generator().manual_seed(0)
    c = VlbConfig().weight(process.alpha_bar, "epsilon")
    mse, bits = [], []
    for t in range(10, process.T, 20):
        noise = torch.randn(images.shape, generator=source)
        at = torch.full((len(images),), t)
        loss = errors(training.ema, process, "epsilon", images, noise, at).mean().item()
        mse.append(loss)
        bits.append(c[t] * loss / math.log(2))
    p = training.strategy.p
    return {
        "mse": float(np.mean(mse)),
        "millibits": 1000 * float(np.mean(bits)),
        "mean_t": float(p @ np.arange(process.T)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=1500)
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = {
        name: [judge(train(config, seed, options.steps)) for seed in range(options.seeds)]
        for name, config in CONTENDERS.items()
    }
    result: dict[str, object] = {"benchmark": "adaptive_quality", **vars(options)}
    for name, runs in found.items():
        means = {key: statistics.mean(run[key] for run in runs) for key in runs[0]}
        spread = {key: max(r[key] for r in runs) - min(r[key] for r in runs) for key in runs[0]}
        print(name, "  ".join(f"{k} {means[k]:.4f} (range {spread[k]:.4f})" for k in means))
        result[name] = {key: [round(run[key], 5) for run in runs] for key in means}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
