"""Denoisers with stages against one denoiser and separate ones: equal weights, equal compute.

All have about as many weights, and train until they have spent as many FLOPs as the unified one
does on --images. The stages of the clusterings are those that `run_search.py stages` finds;
--searched are boundaries of a search. Two have Algorithm 1's stages and decoders of unlike widths.
MNIST is that of benchmarks/recording.py.

    python benchmarks/compare_stages.py --dataset digits [--images 38400] [--seeds 3]
        [--searched T1 T2] [--only NAME ...] [--processes 2] [--out FILE.csv] [--as-it-is]

A training is appended to the CSV when it is done and is not repeated: an interrupted comparison
goes on when the script is started again. --as-it-is trains nothing. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import torch
from diffusers import UNet2DModel
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from benchmarks.compared import Compared
from benchmarks.recording import Job, dataset, record, recorded
from stepsearch.diffusion.datasets import Dataset
from stepsearch.diffusion.denoisers import UNetConfig
from stepsearch.diffusion.denoisers.multistage import Boundaries, MultistageConfig
from stepsearch.diffusion.multistage.accounting import StageCosts, stage_costs
from stepsearch.diffusion.multistage.networks import Features, MultistageModel
from stepsearch.diffusion.stages import StagesConfig, find_stages, pixels
from stepsearch.diffusion.stages.gradients import gradient_similarity
from stepsearch.pixels import scaled
from trainers import DenoisingConfig, trainer

CURVES = Path(__file__).parent / "curves" / "stages.csv"
BASELINE = "unified"
WIDE, NARROW, SEPARATE = [24, 48], [16, 32], [12, 28]
"""Channels of the unified denoiser; of one with stages, which has three ways up; of each of three
separate ones. 367, 340 and 352 thousand weights."""
TAILORED = {
    "wide near the data": [[24, 48], [16, 32], [8, 16]],
    "wide near the noise": [[8, 16], [16, 32], [24, 48]],
}
"""Decoders of Algorithm 1's stages, in the paper's manner and the other way round: 365 thousand
weights."""
SEARCHED, GRADIENTS = "searched", "gradient clusters"
_GRADIENT_STEPS = 600


class Separate(MultistageModel):
    """A whole U-Net for each stage, and nothing that they share."""

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(self, boundaries: Boundaries, options: dict[str, Any]) -> None:
        super().__init__()
        self.decoders = nn.ModuleList(_One(options) for _ in range(len(boundaries) + 1))

    def encode(self, sample: Tensor, time: Tensor) -> Features:
        return [time, sample]


class _One(nn.Module):
    def __init__(self, options: dict[str, Any]) -> None:
        super().__init__()
        self.unet = UNet2DModel(**options)

    def forward(self, features: Features) -> Tensor:
        time, sample = features
        output: Tensor = self.unet(sample, time).sample
        return output


class SeparateConfig(MultistageConfig):
    """Three U-Nets of one size."""

    kind: Literal["separate"] = "separate"
    unet: UNetConfig

    @property
    def n(self) -> int:
        return 3

    def check(self, shape: tuple[int, int, int]) -> None:
        self.unet.check(shape)

    def network(self, shape: tuple[int, int, int], boundaries: Boundaries) -> Separate:
        one: Any = self.unet.build(shape, seed=0)
        options = {k: v for k, v in one.config.items() if k[0] != "_"}
        network: Separate = Separate(boundaries, options)
        return network


class SeparateDenoising(DenoisingConfig):
    """The same trainer, for a denoiser that no search file can name."""

    denoiser: SeparateConfig  # type: ignore[assignment]


def denoisers(clusters: Mapping[str, Boundaries]) -> dict[str, dict[str, Any]]:
    """Name: the trainer's `denoiser`."""
    stages = {"kind": "multistage_unet", "channels": NARROW, "decoders": [NARROW] * 3, "groups": 4}
    analytic = clusters["Algorithm 1"]
    small = {"kind": "unet", "channels": SEPARATE, "groups": 4}
    return {
        "unified": {"kind": "unet", "channels": WIDE, "groups": 4},
        "unified, narrow": {"kind": "unet", "channels": NARROW, "groups": 4},
        "separate": {"kind": "separate", "boundaries": analytic, "unet": small},
        **{name: {**stages, "boundaries": at} for name, at in clusters.items()},
        **{
            name: {**stages, "boundaries": analytic, "decoders": decoders}
            for name, decoders in TAILORED.items()
        },
    }


def recipe(data: Mapping[str, Any], denoiser: Mapping[str, Any]) -> DenoisingConfig:
    """That of search_spaces/speed_digits.yaml with uniform timesteps, and 32 images a stage."""
    changes: dict[str, Any] = {"dataset": data, "training": {"lr": 8e-3, "batch_size": 96}}
    if denoiser["kind"] != "separate":
        found: DenoisingConfig = trainer(denoiser=denoiser, **changes)
        return found
    return SeparateDenoising.model_validate({"denoiser": denoiser, **changes})


def clusterings(
    data: Dataset, searched: Boundaries | None, with_gradients: bool
) -> dict[str, Boundaries]:
    """Three stages by each method, as times of the VP kernel."""
    gradients = None
    if with_gradients:
        gradients = gradient_similarity(scaled(data.train), _GRADIENT_STEPS, seed=0)
    found = find_stages(pixels(data.train), StagesConfig(n=3), gradients=gradients)
    named = {f"{SEARCHED} {searched[0]:g} {searched[1]:g}": searched} if searched else {}
    return {"Algorithm 1": found.boundaries, **found.others, **named}


def costs(config: DenoisingConfig, data: Dataset) -> StageCosts:
    """A plain U-Net counts as one stage."""
    denoiser = config.denoiser
    if isinstance(denoiser, UNetConfig):
        same = {"channels": denoiser.channels, "decoders": [denoiser.channels], "groups": 4}
        config = trainer(denoiser={"kind": "multistage_unet", **same})
        denoiser = config.denoiser
    network: Any = denoiser.build_for(data, config.noise.build(), seed=0)
    return stage_costs(network, data.shape)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--dataset", choices=("digits", "mnist"), default="digits")
    parser.add_argument("--images", type=int, default=38_400, help="of the unified denoiser")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--searched", type=float, nargs=2, metavar=("T1", "T2"))
    parser.add_argument("--only", nargs="+", metavar="NAME")
    parser.add_argument("--processes", type=int, default=2, help="of one thread each")
    parser.add_argument("--out", type=Path, default=CURVES, metavar="FILE.csv")
    parser.add_argument("--as-it-is", action="store_true", help="train nothing more")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    with TemporaryDirectory() as scratch:
        data = recipe(dataset(asked.dataset, Path(scratch)), {"kind": "unet"}).dataset.load()
        searched = tuple(asked.searched) if asked.searched else None
        clusters = clusterings(data, searched, not asked.only or GRADIENTS in asked.only)
    all_of = denoisers(clusters)
    chosen = (BASELINE, *(asked.only or all_of))
    names = [name for name in all_of if name in chosen or name.startswith(SEARCHED)]

    @cache
    def price(name: str) -> StageCosts:
        return costs(recipe({"kind": "digits"}, all_of[name]), data)

    def images(name: str) -> int:
        share = price(BASELINE).training_flops(1) / price(name).training_flops(1)
        return round(int(asked.images) * share / 96) * 96

    jobs = [Job(asked.dataset, images(n), n, seed) for seed in range(asked.seeds) for n in names]
    if not asked.as_it_is:
        record(jobs, partial(configured, all_of), asked.out, 1, asked.processes)
    found = recorded(asked.out)
    runs = {
        name: [found[job] for job in jobs if job.variant == name]
        for name in names
        if all(job in found for job in jobs if job.variant == name)
    }
    compared = Compared.of(runs, asked.dataset, BASELINE)
    print("| denoiser | stages begin at | weights, k | MFLOPs | images | fd, mean (range) | "
          "against unified, 95 % | pixel_fd | off_manifold | CPU-s | wall s |")  # fmt: skip
    print("|" + " --- |" * 11)
    result: dict[str, Any] = {"benchmark": "compare_stages", "dataset": asked.dataset}
    for i, name in enumerate(compared.names):
        ends, price_of = compared.fd[i, :, -1], price(name)
        low, middle, high = (compared.gap(name, side) for side in (-1, 0, 1))
        at = all_of[name].get("boundaries")
        cells = [
            name,
            ", ".join(f"{t:.3f}" for t in at) if at else "-",
            f"{price_of.parameters / 1e3:.0f}",
            f"{price_of.flops([1] * len(price_of.stages)) / 1e6:.1f}",
            f"{images(name):,}",
            f"{ends.mean():.2f} ({ends.min():.2f}-{ends.max():.2f})",
            f"{middle:+.0%} [{low:+.0%}, {high:+.0%}]" if name != BASELINE else "0",
            *(f"{compared.last(name, metric):.3f}" for metric in ("pixel_fd", "off_manifold")),
            *(f"{compared.total(name, metric):.0f}" for metric in ("train_cpu_s", "wall_s")),
        ]
        print("| " + " | ".join(cells) + " |")
        result[name] = {"fd": [round(float(value), 4) for value in ends], "boundaries": at}
    print(json.dumps(result))


def configured(
    all_of: Mapping[str, Mapping[str, Any]], job: Job, data: Mapping[str, Any]
) -> DenoisingConfig:
    """What a job trains."""
    return recipe(data, all_of[job.variant])


if __name__ == "__main__":
    main()
