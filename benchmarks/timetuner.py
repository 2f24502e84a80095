"""What TimeTuner's gradient does to a trained denoiser: untuned against tuned, by the judge.

    python benchmarks/timetuner.py --seeds 3 --num-steps 5 10 20

Trains a denoiser of the digits a seed, tunes the times of DDIM on a uniform trajectory, and scores
images of noise that the tuning has not seen. The tuning lowers eq. 9 (or 11) and sees none of
the scores. Seconds are CPU seconds of one thread.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from stepsearch.evaluation.judge import Judge
from stepsearch.sampling.timetuner import (
    GradientConfig,
    Network,
    SolverConfig,
    draw,
    evaluate,
    gap_to,
    tune,
)
from trainers.denoising import DenoisingConfig
from trainers.judging import judge_of

SHAPE = (1, 8, 8)
HELD_OUT_SEED = 7
METHODS: dict[str, dict[str, Any]] = {
    "sequential": {},
    "sequential, last slot too": {"tune_last": True},
    "parallel": {"strategy": "parallel"},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--num-steps", type=int, nargs="+", default=[10])
    parser.add_argument("--training-steps", type=int, default=3000)
    parser.add_argument("--iterations", type=int, default=500)
    parser.add_argument("--samples", type=int, default=1000)
    options = parser.parse_args()
    torch.set_num_threads(1)
    config = DenoisingConfig.model_validate(
        {"training": {"lr": 4e-3, "ema_decay": 0.995}, "judge": {"samples": options.samples}}
    )
    with TemporaryDirectory() as cache:
        judge = judge_of(config.judge, config.dataset, Path(cache))
        print("| seed | K | clipped | times | fd_digits | pixel_fd | off_manifold | gap | s |")
        print("|---|---|---|---|---|---|---|---|---|")
        for seed in range(options.seeds):
            denoiser = trained(config, seed, options.training_steps)
            for K in options.num_steps:
                for clip in (True, False):
                    rows(config, denoiser, judge, (seed, K, clip), options.iterations)


def trained(config: DenoisingConfig, seed: int, steps: int) -> torch.nn.Module:
    training = config.training_for(seed, steps * config.training.batch_size)
    training.run(training.budget)
    return training.ema.requires_grad_(False)


def rows(
    config: DenoisingConfig,
    denoiser: torch.nn.Module,
    judge: Judge,
    case: tuple[int, int, bool],
    iterations: int,
) -> None:
    """Print a row for the untuned times and one for each method."""
    _, K, clip = case
    noise, images = config.noise.build().scheduler_config(), config.dataset.load().train
    sampler = SolverConfig(num_steps=K, clip_sample=clip)
    network = Network(evaluate(denoiser), sampler.build(noise, "epsilon"))
    teacher = SolverConfig(num_steps=100, clip_sample=clip).build(noise, "epsilon")
    gap = gap_to(Network(evaluate(denoiser), teacher), SHAPE)
    taus = {"untuned": (network.solver.times, 0.0)}
    for name, changes in METHODS.items():
        begun = time.process_time()
        tuned = tune(network, images, GradientConfig(iterations=iterations, **changes))
        taus[name] = tuned.tau, time.process_time() - begun
    for name, (tau, seconds) in taus.items():
        drawn = draw(network, tau, judge.config.samples, shape=SHAPE, seed=HELD_OUT_SEED)
        scores = judge.score(drawn)
        found = [scores[key] for key in ("fd_digits", "pixel_fd", "off_manifold")]
        found.append(gap(drawn[:500], HELD_OUT_SEED))
        cells = [*case, name, *(f"{value:.3f}" for value in found), f"{seconds:.0f}"]
        print("| " + " | ".join(map(str, cells)) + " |", flush=True)


if __name__ == "__main__":
    main()
