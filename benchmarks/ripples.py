"""How a distance to the data depends on one time that the network is told: ripples on a slope.

    python benchmarks/ripples.py [--seeds 3] [--num-steps 5] [--denoisers FOLDER]

The denoisers of benchmarks/timetuner.py under DDIM. Of each slot but the first and the last: the
energy distance's slope from 50 timesteps below its time to 50 above; by autograd, the slopes at 21
single times, 1.5 apart, and those where a batch is told times around each; and which part of what
the distance varies beside a line are sines of the one and the two shortest periods in which the
network sees t. Slopes are in thousandths of the distance a timestep; the noise is always the same.
The last line is a JSON object.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.timetuner import SAMPLERS, Case, configured, trained
from stepsearch.pixels import scaled
from stepsearch.sampling.timetuner import EndToEndConfig, Network, evaluate
from stepsearch.sampling.timetuner.end_to_end import distance_of_a_batch
from stepsearch.sampling.timetuner.ripples import WAVE, around
from stepsearch.strategies import FloatArray

BATCHES, IMAGES = 8, 64
AT = np.arange(-15, 15.1, 1.5)
FAR = 50.0


class Slot:
    """The distance as a function of what one slot is told."""

    def __init__(self, network: Network, images: Tensor, slot: int) -> None:
        self._network, self._images, self._slot = network, images, slot
        self._config = EndToEndConfig(batch_size=IMAGES)

    def distance(self, shift: Tensor, width: float = 0.0) -> Tensor:
        """At the nominal time + shift, of images told times around it."""
        times = self._network.solver.times.clone()
        one = torch.zeros_like(times).index_fill(0, torch.tensor(self._slot), 1.0)
        each = []
        for i in range(BATCHES):
            chance = torch.Generator().manual_seed(i)
            told = around(times + shift * one, width * one, IMAGES, chance)
            each.append(distance_of_a_batch(self._network, told, self._images, i, self._config))
        return torch.stack(each).mean()

    def slope(self, shift: float, width: float = 0.0) -> float:
        at = torch.tensor(shift, dtype=torch.float32, requires_grad=True)
        return float(torch.autograd.grad(self.distance(at, width), at)[0])

    @torch.no_grad()
    def value(self, shift: float) -> float:
        return float(self.distance(torch.tensor(shift)))


def periods(denoiser: Any) -> list[float]:
    """The two shortest of its time embedding's sines."""
    sines = denoiser.config.block_out_channels[0] // 2
    return [2 * math.pi * 10_000 ** (k / sines) for k in range(2)]


def share(fine: FloatArray, values: FloatArray, periods: list[float]) -> float:
    """Of the variance beside a line, what sines of these periods and another line are."""
    line = np.stack([fine, np.ones_like(fine)], 1)
    turns = 2 * math.pi * fine[:, None] / np.array(periods)
    waves = np.concatenate([line, np.sin(turns), np.cos(turns)], 1)
    plain, left = (values - a @ np.linalg.lstsq(a, values, rcond=None)[0] for a in (line, waves))
    return float(1 - np.var(left) / np.var(plain))


def measure(slot: Slot, periods: list[float]) -> dict[str, Any]:
    unit = slot.value(0.0) / 1000
    fine = np.arange(-15, 15.01, 0.5)
    values = np.array([slot.value(float(shift)) for shift in fine]) / unit
    return {
        "over_100": (slot.value(FAR) - slot.value(-FAR)) / (2 * FAR) / unit,
        "at_one": [slot.slope(float(shift)) / unit for shift in AT],
        "around": [slot.slope(float(shift), WAVE) / unit for shift in AT],
        "shares": [share(fine, values, periods[:n]) for n in (1, 2)],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--num-steps", type=int, default=5)
    parser.add_argument("--denoisers", type=Path, metavar="FOLDER", help="where to keep them")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    print("| seed | slot | slope over 100 | at one time: mean, least, most "
          "| around it: mean, least, most | one sine | two sines |")  # fmt: skip
    print("|" + " --- |" * 7)
    with TemporaryDirectory() as scratch:
        folder = asked.denoisers or Path(scratch)
        for seed in range(asked.seeds):
            case = Case("digits", "uniform", seed, "ddim", asked.num_steps)
            config = configured(case, folder)
            denoiser, images = trained(case, config, folder), scaled(config.dataset.load().train)
            sampler = SAMPLERS["ddim"].model_copy(update={"num_steps": asked.num_steps})
            solver = sampler.build(config.noise.build().scheduler_config(), "epsilon")
            for k in range(1, asked.num_steps - 1):
                slot = Slot(Network(evaluate(denoiser), solver), images, k)
                row = measure(slot, periods(denoiser))
                show(seed, k, row)
                rows.append({"seed": seed, "slot": k, **row})
    print(json.dumps({"benchmark": "ripples", "rows": rows}))


def show(seed: int, slot: int, row: dict[str, Any]) -> None:
    one, around = (
        f"{np.mean(row[name]):.2f}, {min(row[name]):.2f}, {max(row[name]):.2f}"
        for name in ("at_one", "around")
    )
    shares = " | ".join(f"{share:.0%}" for share in row["shares"])
    print(f"| {seed} | {slot} | {row['over_100']:.2f} | {one} | {around} | {shares} |", flush=True)


if __name__ == "__main__":
    main()
