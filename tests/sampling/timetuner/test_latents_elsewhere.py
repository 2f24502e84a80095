"""tau for latents where stepsearch is not installed: the bundle draws our pictures."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from stepsearch.diffusion.datasets import LatentsConfig
from stepsearch.diffusion.datasets.latents import decoder
from stepsearch.diffusion.denoisers import DiTConfig, UNetConfig
from stepsearch.diffusion.seeds import generator
from stepsearch.sampling.bundle import Bundle, write_bundle
from stepsearch.sampling.timetuner import (
    Network,
    SolverConfig,
    Tuned,
    Verdict,
    by_class,
    draw,
    evaluate,
    write_tuned,
)

pytestmark = pytest.mark.slow

IMAGES = 4
SHAPE = (4, 4, 4)
CASES: dict[str, dict[str, Any]] = {
    "unet, hook": {"sampler": {}},
    "unet, v, full, hook": {
        "sampler": {},
        "training": {"prediction_type": "v_prediction"},
        "scope": "full",
    },
    "unet, eta, scheduler": {"sampler": {"eta": 0.5}},
    "dit, dpmpp_2m, scheduler": {"sampler": {"kind": "dpmpp_2m", "trajectory": "log_snr"}},
    "dit, ddpm, scheduler": {"sampler": {"kind": "ddpm"}},
    "dit, classes, hook": {"sampler": {"guidance": 2.0}},
}

PROBE = """
import importlib.util, json, sys
from pathlib import Path
import numpy as np, torch
from diffusers import DiffusionPipeline

torch.set_num_threads(1)
drawn = {}
for name, case in json.loads(sys.argv[1]).items():
    pipeline = DiffusionPipeline.from_pretrained(
        case["bundle"] + "/pipeline", local_files_only=True, trust_remote_code=True
    )
    pipeline.set_progress_bar_config(disable=True)
    spec = importlib.util.spec_from_file_location("tuned", case["tuned"] + "/tuned_timesteps.py")
    tuned = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tuned)
    schedule = tuned.load(case["tuned"] + "/timetuner.json")
    if name.endswith("hook"):
        pipeline.scheduler = tuned.scheduler(schedule)
        tuned.attach(pipeline.unet, schedule)
    else:
        tuned.check(pipeline.unet, schedule)
        pipeline.scheduler = tuned.tuned_scheduler(schedule)
    drawn[name] = pipeline(
        **case["asked"],
        generator=[torch.Generator().manual_seed(seed) for seed in case["seeds"]],
        num_inference_steps=schedule["num_steps"],
        output_type="np",
    ).images
np.savez("drawn.npz", **drawn)
"""


@pytest.fixture(scope="module")
def bundles(make_bundle: Callable[..., Bundle], encoded: Path) -> dict[str, Bundle]:
    data = LatentsConfig(path=encoded).load()
    found = {}
    for name, case in CASES.items():
        config = DiTConfig(layers=1) if "dit" in name else UNetConfig(channels=(8, 16))
        classes = data.classes if "classes" in name else 0
        network = config.build(SHAPE, seed=0, classes=classes).eval()
        if "dit" in name:  # a new one answers 0
            weights = torch.Generator().manual_seed(0)
            for parameter in network.parameters():
                torch.nn.init.normal_(parameter, std=0.1, generator=weights)
        found[name] = make_bundle(
            training=case.get("training"),
            sampler={"clip_sample": False},
            denoiser=network,
            vae=data.vae,
            class_shares=data.class_shares if classes else None,
        )
    return found


def network_of(name: str, bundle: Bundle) -> tuple[Network, SolverConfig]:
    sampler = SolverConfig(num_steps=5, **CASES[name]["sampler"])
    noise, target = bundle.process.scheduler_config(), bundle.training.prediction_type
    run, labels = evaluate(bundle.denoiser), None
    if bundle.class_shares is not None:
        run, labels = by_class(bundle.denoiser, sampler.guidance), labels_like(bundle)
    scope = CASES[name].get("scope", "embedding")
    return Network(run, sampler.build(noise, target), scope, labels=labels, latents=True), sampler


def labels_like(bundle: Bundle) -> torch.Tensor:
    """Labels in the proportions of the data's."""
    assert bundle.class_shares is not None
    counts = (bundle.class_shares * 1000).round().long()
    return torch.arange(len(counts)).repeat_interleave(counts)


def shifted(network: Network) -> torch.Tensor:
    return network.solver.times * 0.94 + 3.3


def write(name: str, bundle: Bundle, home: Path) -> dict[str, Any]:
    """A bundle with tau beside it, and what its pipeline is asked for."""
    network, sampler = network_of(name, bundle)
    times, zeros = network.solver.times, (0.0,) * network.solver.nfe
    tuned = Tuned(shifted(network), times, zeros, zeros, (0,) * len(zeros))
    verdict = Verdict("pixel_fd", (1.0,), (2.0,))
    asked: dict[str, Any] = {"batch_size": IMAGES}
    if bundle.class_shares is not None:
        labels = network.drawn(0, IMAGES)
        assert labels is not None
        asked = {"class_labels": labels.tolist(), "guidance_scale": sampler.guidance}
    return {
        "bundle": str(write_bundle(home / "bundle", bundle)),
        "tuned": str(
            write_tuned(home / "tuned", network, bundle.denoiser, sampler, tuned, verdict)
        ),
        "asked": asked | ({"eta": sampler.eta} if sampler.eta else {}),
        "seeds": [generator("image", 5, i).initial_seed() for i in range(IMAGES)],
    }


@pytest.fixture(scope="module")
def drawn(
    bundles: dict[str, Bundle], plain_python: Any, tmp_path_factory: pytest.TempPathFactory
) -> Any:
    """What the probe drew for all cases, in one process: loading diffusers takes long."""
    home = tmp_path_factory.mktemp("elsewhere")
    cases = {
        name: write(name, bundle, home / str(index))
        for index, (name, bundle) in enumerate(bundles.items())
    }
    ran = plain_python("-c", PROBE, json.dumps(cases), cwd=home)
    assert ran.returncode == 0, ran.stderr
    return np.load(home / "drawn.npz")


@pytest.mark.parametrize("name", CASES)
def test_the_bundle_draws_our_pictures_bit_for_bit(
    name: str, bundles: dict[str, Bundle], drawn: Any
) -> None:
    bundle = bundles[name]
    network, _ = network_of(name, bundle)
    tuned, untuned = (
        decoder(bundle.vae, torch.device("cpu"))(draw(network, times, IMAGES, shape=SHAPE, seed=5))
        for times in (shifted(network), network.solver.times)
    )
    expected = (tuned / 2 + 0.5).clamp(0, 1).numpy()
    np.testing.assert_array_equal(drawn[name].transpose(0, 3, 1, 2), expected)
    assert (tuned - untuned).abs().mean() > 1e-3
