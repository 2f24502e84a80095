"""What a strategy costs a training step: its draw and its weights beside the step itself.

Every strategy's part of a step (draw a batch of timesteps, look up their weights, observe the
losses) is timed alone, taking turns with the others, and set against uniform's part and against a
bare `torch.randint` without weights. The step is that of the default U-Net on digits, in the same
process, on one thread. Times are CPU time, so that other processes on the machine matter little;
each is the least of several rounds.

    python benchmarks/table_strategies.py [--quick]

The last line is a JSON object.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable

import torch

from stepsearch.diffusion.datasets import DigitsConfig
from stepsearch.diffusion.denoisers import UNetConfig
from stepsearch.diffusion.noise import VPConfig
from stepsearch.diffusion.training import Training, TrainingConfig
from stepsearch.strategies import DENSITIES, WEIGHTS, Strategy, strategy

_BATCH = 64
_LIMIT = 0.01
"""Of a step, over uniform."""
_THEN = {"strategy": {"kind": "uniform"}}
OTHERS = {
    "speed": strategy("speed"),
    "speed_released": strategy("speed_released"),
    "compose": strategy(
        "compose", p={"kind": "laplace"}, w={"kind": "min_snr"}, floor=0.1, antithetic=True
    ),
    "phase": strategy("phase", phases=[{"strategy": {"kind": "speed"}, "images": 10**9}, _THEN]),
}


def part_of_a_step(built: Strategy) -> Callable[[], None]:
    generator, losses = torch.Generator().manual_seed(0), torch.rand(_BATCH)

    def once() -> None:
        t = built.draw(_BATCH, generator)
        (built.weights(t) * losses).mean()
        built.observe(t, losses)

    return once


def bare() -> None:
    torch.randint(0, 1000, (_BATCH,))
    _LOSSES.mean()


_LOSSES = torch.rand(_BATCH)


def seconds(work: Callable[[], object], times: int) -> float:
    begun = time.process_time()
    for _ in range(times):
        work()
    return (time.process_time() - begun) / times


def a_step(rounds: int, steps: int) -> float:
    """CPU seconds of a whole step of uniform training, the least of some rounds."""
    process, dataset = VPConfig().build(), DigitsConfig().load()
    training = Training(
        TrainingConfig(batch_size=_BATCH),
        UNetConfig().build(dataset.shape, seed=0),
        process,
        strategy("uniform").build(process.alpha_bar),
        dataset.train,
        budget=2**40,
        seed=0,
    )

    def train() -> None:
        training.run(training.images_seen + steps * _BATCH)

    train()
    return min(seconds(train, 1) for _ in range(rounds)) / steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--quick", action="store_true", help="fewer rounds, to see that it runs")
    rounds, times = (3, 100) if parser.parse_args().quick else (30, 300)
    torch.set_num_threads(1)
    alpha_bar = VPConfig().build().alpha_bar
    configs = {kind: strategy(kind) for kind in (DENSITIES | WEIGHTS)} | OTHERS
    parts = {name: part_of_a_step(config.build(alpha_bar)) for name, config in configs.items()}
    parts["randint, no weights"] = bare
    found = {name: float("inf") for name in parts}
    for _ in range(rounds):
        for name, part in parts.items():
            found[name] = min(found[name], seconds(part, times))
    step = a_step(rounds, 2 if rounds == 3 else 10)
    show(found, step)


def show(found: dict[str, float], step: float) -> None:
    print(f"one step of the default U-Net at batch {_BATCH}: {1e3 * step:.2f} ms of CPU time")
    print(f"{'strategy':22}{'us a step':>10}{'over uniform':>14}")
    over = {name: (found[name] - found["uniform"]) / step for name in found}
    for name in sorted(found, key=found.__getitem__):
        print(f"{name:22}{1e6 * found[name]:>10.1f}{100 * over[name]:>13.3f} %")
    worst = max(over, key=over.__getitem__)
    print(f"most: {worst}, {100 * over[worst]:.3f} % of a step; the limit is {100 * _LIMIT:g} %")
    print(json.dumps({"step_s": step, "strategy_s": found, "over_uniform": over}))


if __name__ == "__main__":
    main()
