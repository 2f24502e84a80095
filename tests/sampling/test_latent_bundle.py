"""A bundle of a denoiser of latents where stepsearch is not installed: it decodes."""

from __future__ import annotations

import json
import re
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
from stepsearch.sampling.guidance import labels_of
from stepsearch.sampling.sampler import generate
from tests.latents import write_digits

pytestmark = pytest.mark.slow

IMAGES = 5
SHAPE = (4, 4, 4)
CASES: dict[str, dict[str, Any]] = {
    "ddim": {"sampler": {"num_steps": 8, "clip_sample": False, "eta": 0.5}},
    "ddpm, v": {
        "training": {"prediction_type": "v_prediction"},
        "sampler": {"kind": "ddpm", "num_steps": 10, "clip_sample": False},
    },
    "edm": {
        "noise": {"kind": "edm"},
        "training": {"prediction_type": "edm"},
        "sampler": {"kind": "dpm", "num_steps": 7, "clip_sample": False},
    },
    "dit, classes": {
        "sampler": {"num_steps": 8, "clip_sample": False, "guidance": 2.0},
    },
    "flow, dit": {
        "noise": {"kind": "flow"},
        "training": {"prediction_type": "flow"},
        "sampler": {"kind": "euler", "num_steps": 5, "clip_sample": False},
    },
}

PROBE = """
import importlib.util, json, sys
from pathlib import Path
import numpy as np, torch
from diffusers import AutoencoderKL, DiffusionPipeline

torch.set_num_threads(1)
arrays = {}
for name, case in json.loads(sys.argv[1]).items():
    pipeline = DiffusionPipeline.from_pretrained(
        case["folder"] + "/pipeline", local_files_only=True, trust_remote_code=True
    )
    assert type(pipeline.vae) is AutoencoderKL
    pipeline.set_progress_bar_config(disable=True)
    arrays[name] = pipeline(
        **case["asked"],
        generator=[torch.Generator().manual_seed(seed) for seed in case["seeds"]],
        num_inference_steps=case["num_steps"],
        eta=case["eta"],
        output_type="np",
    ).images

spec = importlib.util.spec_from_file_location(
    "script", Path(case["folder"]) / "train_with_strategy.py"
)
script = importlib.util.module_from_spec(spec)
spec.loader.exec_module(script)
images = torch.from_numpy(np.load(sys.argv[2])["images"]).unsqueeze(1) / 127.5 - 1
arrays["latents"] = script.encode(pipeline.vae, images).numpy()
np.savez("seen.npz", **arrays)
"""


@pytest.fixture(scope="module")
def bundles(make_bundle: Callable[..., Bundle], encoded: Path) -> dict[str, Bundle]:
    data = LatentsConfig(path=encoded).load()
    found = {}
    for name, parts in CASES.items():
        config = DiTConfig(layers=1) if "dit" in name else UNetConfig(channels=(8, 16))
        classes = data.classes if "classes" in name else 0
        network = config.build(SHAPE, seed=0, classes=classes)
        if "dit" in name:  # a new one answers 0
            weights = torch.Generator().manual_seed(0)
            for parameter in network.parameters():
                torch.nn.init.normal_(parameter, std=0.1, generator=weights)
        shares = data.class_shares if classes else None
        found[name] = make_bundle(**parts, denoiser=network, vae=data.vae, class_shares=shares)
    return found


@pytest.fixture(scope="module")
def folders(
    bundles: dict[str, Bundle], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    home = tmp_path_factory.mktemp("bundles")
    return {name: write_bundle(home / name, bundle) for name, bundle in bundles.items()}


@pytest.fixture(scope="module")
def seen(
    bundles: dict[str, Bundle],
    folders: dict[str, Path],
    plain_python: Any,
    tmp_path_factory: pytest.TempPathFactory,
) -> Any:
    """What the probe saw of all bundles, in one process: loading diffusers takes long."""
    home = tmp_path_factory.mktemp("elsewhere")
    seeds = [generator("image", 5, i).initial_seed() for i in range(IMAGES)]
    cases = {
        name: {
            "folder": str(folder),
            "seeds": seeds,
            "asked": _asked(bundles[name]),
            "num_steps": bundles[name].sampler.num_steps,
            "eta": bundles[name].sampler.eta,
        }
        for name, folder in folders.items()
    }
    digits = write_digits(home / "digits.npz", 300)
    ran = plain_python("-c", PROBE, json.dumps(cases), digits, cwd=home)
    assert ran.returncode == 0, ran.stderr
    return np.load(home / "seen.npz")


def _asked(bundle: Bundle) -> dict[str, Any]:
    if bundle.class_shares is None:
        return {"batch_size": IMAGES}
    labels = labels_of(bundle.class_shares, 0, IMAGES).tolist()
    return {"class_labels": labels, "guidance_scale": bundle.sampler.guidance}


@pytest.mark.parametrize("case", CASES)
def test_the_pipelines_draw_our_pictures(case: str, bundles: dict[str, Bundle], seen: Any) -> None:
    bundle = bundles[case]
    ours = generate(
        bundle.denoiser,
        bundle.process,
        bundle.sampler,
        IMAGES,
        shape=SHAPE,
        prediction_type=bundle.training.prediction_type,
        seed=5,
        class_shares=bundle.class_shares,
        decode=decoder(bundle.vae, torch.device("cpu")),
    )
    theirs = seen[case].transpose(0, 3, 1, 2)
    assert theirs.shape == (IMAGES, 1, 8, 8)
    assert theirs.std() > 0.05
    np.testing.assert_allclose(theirs, ours / 2 + 0.5, rtol=0, atol=1e-5)


def test_the_scripts_latents_are_those_that_were_trained_on(seen: Any, encoded: Path) -> None:
    data = LatentsConfig(path=encoded).load()
    ours = torch.cat([data.train, data.held_out]).double().numpy()
    theirs = seen["latents"]
    assert ours.shape == theirs.shape
    assert ours.mean() == pytest.approx(theirs.mean(), abs=1e-3)
    assert np.sort(ours[:, 0, 0, 0]) == pytest.approx(np.sort(theirs[:, 0, 0, 0]), abs=1e-3)


def test_the_readme_draws_and_the_script_trains_on_latents(
    folders: dict[str, Path], plain_python: Any, tmp_path: Path
) -> None:
    """The retrained pipeline is drawn from in the same way."""
    folder, out = folders["flow, dit"], tmp_path / "retrained" / "pipeline"
    ran = plain_python(folder / "train_with_strategy.py", "--steps=2", "--out", out, cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    blocks = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    check = "assert len(images) == 16\nassert images[0].size == (8, 8)\n"
    code = [
        f"import os\nos.chdir({str(home)!r})\n{blocks[0]}\n{check}"
        for home in (folder, out.parent)
    ]
    ran = plain_python("-c", "\n".join(code), cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
