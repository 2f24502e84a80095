"""tau where stepsearch is not installed: an unmodified diffusers pipeline draws our images."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDPMPipeline, UNet2DModel

from stepsearch.diffusion.denoisers import UNetConfig
from stepsearch.diffusion.noise import VPConfig
from stepsearch.diffusion.seeds import generator
from stepsearch.sampling.timetuner import (
    Network,
    SolverConfig,
    Tuned,
    Verdict,
    draw,
    evaluate,
    write_tuned,
)
from tests.sampling.timetuner.in_range import inside

pytestmark = pytest.mark.slow
SHAPE, IMAGES = (1, 8, 8), 4
NOISE = VPConfig().build().scheduler_config()
# x_T is hardly more than an image: what a network that nobody trained draws in eps is in range
LITTLE_NOISE = NOISE | {"beta_end": 5e-4}

# what is tuned, the pipeline that draws it, and how the pipeline is told
CASES: dict[str, dict[str, Any]] = {
    "ddim, hook": {
        "pipeline": "DDIMPipeline",
        "way": "hook",
        "sampler": {"clip_sample": True},
        "noise": LITTLE_NOISE,
    },
    "ddim, v, scheduler": {
        "pipeline": "DDIMPipeline",
        "way": "scheduler",
        "sampler": {"eta": 0.3},
        "target": "v_prediction",
    },
    "ddim, leading, hook": {
        "pipeline": "DDIMPipeline",
        "way": "hook",
        "sampler": {"trajectory": "leading_1"},
        "noise": LITTLE_NOISE,
    },
    "ddim, v, full": {
        "pipeline": "DDIMPipeline",
        "way": "hook",
        "sampler": {},
        "target": "v_prediction",
        "scope": "full",
    },
    "ddpm, hook": {
        "pipeline": "DDPMPipeline",
        "way": "hook",
        "sampler": {"kind": "ddpm", "clip_sample": True, "variance": "small"},
        "noise": LITTLE_NOISE,
    },
    "ddpm, v, quadratic, scheduler": {
        "pipeline": "DDPMPipeline",
        "way": "scheduler",
        "sampler": {"kind": "ddpm", "trajectory": "quadratic"},
        "target": "v_prediction",
    },
    "dpmpp_2m, log_snr, scheduler": {
        "pipeline": "DDPMPipeline",
        "way": "scheduler",
        "sampler": {"kind": "dpmpp_2m", "trajectory": "log_snr"},
        "noise": LITTLE_NOISE,
    },
    "dpmpp_2m, x0, dmn, scheduler": {
        "pipeline": "DDPMPipeline",
        "way": "scheduler",
        "sampler": {"kind": "dpmpp_2m", "trajectory": "dmn"},
        "target": "sample",
    },
    "ddim, score_optimal, hook": {
        "pipeline": None,
        "way": "hook",
        "sampler": {"trajectory": "score_optimal"},
    },
    "unipc, given, scheduler": {
        "pipeline": None,
        "way": "scheduler",
        "sampler": {"kind": "unipc", "trajectory": "given", "levels": [99.5, 7, 2, 0.5, 0.2, 0]},
    },
    "heun, given, hook": {
        "pipeline": None,
        "way": "hook",
        "sampler": {"kind": "heun", "trajectory": "given", "levels": [99, 7, 2, 0.5, 0.2, 0.1]},
    },
    "heun, edm, scheduler": {
        "pipeline": None,
        "way": "scheduler",
        "sampler": {"kind": "heun", "trajectory": "edm"},
    },
    "unipc, x0, scheduler": {
        "pipeline": None,
        "way": "scheduler",
        "sampler": {"kind": "unipc", "trajectory": "quadratic"},
        "target": "sample",
    },
    "dpm_solver_2, hook": {
        "pipeline": None,
        "way": "hook",
        "sampler": {"kind": "dpm_solver_2", "trajectory": "log_snr"},
    },
}

PROBE = """
import importlib.util, json, sys
from pathlib import Path
import diffusers, numpy as np, torch

torch.set_num_threads(1)
cases, seeds = json.loads(sys.argv[1]), json.loads(sys.argv[2])
drawn = {}
for name, case in cases.items():
    folder = Path(case["folder"])
    spec = importlib.util.spec_from_file_location("tuned", folder / "tuned_timesteps.py")
    tuned = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tuned)
    schedule = tuned.load(folder / "timetuner.json")
    noise = [torch.Generator().manual_seed(seed) for seed in seeds]
    unet = diffusers.UNet2DModel.from_pretrained("unet", local_files_only=True)
    scheduler = tuned.scheduler(schedule)
    tuned.place(scheduler, schedule)
    pipeline = None
    if case["pipeline"]:
        pipeline = getattr(diffusers, case["pipeline"])(unet, scheduler)
        pipeline.set_progress_bar_config(disable=True)
    if case["way"] == "hook":
        handle = tuned.attach(unet, schedule)
    else:
        scheduler = tuned.tuned_scheduler(schedule)
        if pipeline:
            pipeline.scheduler = scheduler
    eta = {"eta": case["sampler"].get("eta", 0.0)}
    options = eta if case["pipeline"] == "DDIMPipeline" else {}
    K = schedule["num_steps"]
    if pipeline:
        for _ in range(2):  # a second call starts anew
            again = [generator.clone_state() for generator in noise]
            images = pipeline(
                len(seeds), again, num_inference_steps=K, output_type="np", **options
            ).images
        images = images.transpose(0, 3, 1, 2)
    else:
        x = torch.cat([torch.randn(1, 1, 8, 8, generator=g) for g in noise])
        x = x * scheduler.init_noise_sigma
        with torch.no_grad():
            for t in scheduler.timesteps:
                output = unet(scheduler.scale_model_input(x, t), t).sample
                x = scheduler.step(output, t, x).prev_sample
        images = x.numpy()  # nobody clips them
    drawn[name] = images
    if case["way"] == "hook":
        handle.remove()
        assert not unet._forward_pre_hooks and not unet._forward_hooks
np.savez("drawn.npz", **drawn)
"""


@pytest.fixture(scope="module")
def denoiser() -> UNet2DModel:
    return UNetConfig(channels=(8, 16)).build(SHAPE, seed=0).eval()


def network_of(case: dict[str, Any], denoiser: UNet2DModel) -> tuple[Network, SolverConfig]:
    sampler = SolverConfig(num_steps=5, **case["sampler"])
    solver = sampler.build(case.get("noise", NOISE), case.get("target", "epsilon"))
    network = Network(evaluate(denoiser), solver, case.get("scope", "embedding"), latents=True)
    return network, sampler


def shifted(network: Network) -> torch.Tensor:
    """A tau unlike the nominal times, with one of them twice."""
    tau = network.solver.times * 0.94 + 3.3
    tau[1] = tau[0]
    return tau


def tuned(network: Network) -> Tuned:
    nothing = (0.0,) * network.solver.nfe
    return Tuned(shifted(network), network.solver.times, nothing, nothing, (0,) * len(nothing))


BETTER = Verdict("gap", (1.0,), (2.0,))


@pytest.fixture(scope="module")
def drawn(denoiser: Any, plain_python: Any, tmp_path_factory: Any) -> Any:
    """What the probe drew for all cases, in one process: loading diffusers takes long."""
    home = tmp_path_factory.mktemp("elsewhere")
    denoiser.save_pretrained(home / "unet")
    cases = {}
    for index, (name, case) in enumerate(CASES.items()):
        network, sampler = network_of(case, denoiser)
        place = home / str(index)
        folder = write_tuned(place, network, denoiser, sampler, tuned(network), BETTER)
        cases[name] = {**case, "folder": str(folder)}
    seeds = [generator("image", 5, i).initial_seed() for i in range(IMAGES)]
    ran = plain_python("-c", PROBE, json.dumps(cases), json.dumps(seeds), cwd=home)
    assert ran.returncode == 0, ran.stderr
    return np.load(home / "drawn.npz")


@pytest.mark.parametrize("name", CASES)
def test_diffusers_draws_our_images_bit_for_bit(name: str, denoiser: Any, drawn: Any) -> None:
    network, _ = network_of(CASES[name], denoiser)
    ours = draw(network, shifted(network), IMAGES, shape=SHAPE, seed=5)
    untuned = draw(network, network.solver.times, IMAGES, shape=SHAPE, seed=5)
    if CASES[name]["pipeline"]:
        assert inside(ours) > 0.5, "a pipeline clips its pictures"
        ours, untuned = ((each / 2 + 0.5).clamp(0, 1) for each in (ours, untuned))
    np.testing.assert_array_equal(drawn[name], ours.numpy())
    assert (ours - untuned).abs().mean() > 1e-3


def test_the_python_of_its_readme_runs_as_it_stands(
    denoiser: Any, plain_python: Any, tmp_path: Path
) -> None:
    network, sampler = network_of(CASES["ddim, v, scheduler"], denoiser)
    folder = write_tuned(tmp_path / "tuned", network, denoiser, sampler, tuned(network), BETTER)
    blocks = re.findall(r"^```python\n(.*?)^```", (folder / "README.md").read_text(), re.S | re.M)
    assert len(blocks) == 2
    DDPMPipeline(denoiser, network.solver.scheduler.__class__(**NOISE)).save_pretrained(
        tmp_path / "pipeline"
    )
    code = (
        "import sys; sys.path.insert(0, '.')\n"
        "from diffusers import DDIMPipeline\n"
        "pipeline = DDIMPipeline.from_pretrained('../pipeline')\n"
        + "\n".join(blocks)
        + "\npipeline(num_inference_steps=5)\n"
    )
    ran = plain_python("-c", code, cwd=folder)
    assert ran.returncode == 0, ran.stderr
