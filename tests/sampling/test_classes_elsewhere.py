"""The bundle of a denoiser with classes where stepsearch is not installed."""

import json
import re
import runpy

import numpy as np
import pytest
from PIL import Image

from stepsearch.diffusion.seeds import generator
from stepsearch.sampling.bundle import write_bundle
from stepsearch.sampling.guidance import labels_of
from stepsearch.sampling.sampler import generate

pytestmark = pytest.mark.slow

IMAGES = 6

CASES = {
    "ddim": {"sampler": {"guidance": 1.5}},
    "ddim, eta, not clipped": {
        "sampler": {"guidance": 4.0, "eta": 0.5, "clip_sample": False, "num_steps": 5}
    },
    "ddpm, no guidance": {"sampler": {"kind": "ddpm", "num_steps": 25}},
    "edm": {
        "noise": {"kind": "edm"},
        "training": {"prediction_type": "edm"},
        "sampler": {"kind": "dpm", "num_steps": 7, "guidance": 2.0},
    },
    "flow, dit": {
        "transformer": True,
        "noise": {"kind": "flow"},
        "training": {"prediction_type": "flow"},
        "sampler": {"kind": "euler", "num_steps": 5, "guidance": 2.0},
    },
}

PROBE = """
import json, sys
import numpy as np, torch
from diffusers import DiffusionPipeline

torch.set_num_threads(1)
cases, seeds, labels = map(json.loads, sys.argv[1:])
arrays = {}
for name, case in cases.items():
    pipeline = DiffusionPipeline.from_pretrained(
        case["folder"] + "/pipeline", local_files_only=True, trust_remote_code=True
    )
    assert type(pipeline).__module__.startswith("diffusers_modules")
    pipeline.set_progress_bar_config(disable=True)
    arrays[name] = pipeline(
        class_labels=labels,
        guidance_scale=case["guidance"],
        num_inference_steps=case["num_steps"],
        eta=case["eta"],
        generator=[torch.Generator().manual_seed(seed) for seed in seeds],
        output_type="np",
    ).images
    assert pipeline.null_class == 10
    try:
        pipeline(class_labels=[11])
    except ValueError as error:
        assert "must be in 0..9, or 10 for no class, got [11]" in str(error)
    else:
        raise AssertionError("11 is no class")
np.savez("seen.npz", **arrays)
"""


@pytest.fixture(scope="module")
def bundles(make_bundle):
    label_dropout = {"label_dropout": 0.1}
    return {
        name: make_bundle(
            **{**parts, "training": parts.get("training", {}) | label_dropout},
            class_conditional=True,
        )
        for name, parts in CASES.items()
    }


@pytest.fixture(scope="module")
def folders(bundles, tmp_path_factory):
    home = tmp_path_factory.mktemp("bundles")
    return {
        name: write_bundle(home / str(index), bundle)
        for index, (name, bundle) in enumerate(bundles.items())
    }


@pytest.fixture(scope="module")
def seen(bundles, folders, plain_python, tmp_path_factory):
    home = tmp_path_factory.mktemp("elsewhere")
    cases = {
        name: {"folder": str(folders[name]), **bundle.sampler.model_dump()}
        for name, bundle in bundles.items()
    }
    seeds = [generator("image", 5, i).initial_seed() for i in range(IMAGES)]
    labels = labels_of(bundles["ddim"].class_shares, 0, IMAGES).tolist()
    ran = plain_python("-c", PROBE, *map(json.dumps, (cases, seeds, labels)), cwd=home)
    assert ran.returncode == 0, ran.stderr
    assert "Expected types" not in ran.stderr
    return np.load(home / "seen.npz")


@pytest.mark.parametrize("case", CASES)
def test_the_bundles_pipeline_draws_our_samplers_images(case, bundles, seen):
    bundle = bundles[case]
    ours = generate(
        bundle.denoiser.eval(),
        bundle.process,
        bundle.sampler,
        IMAGES,
        shape=(1, 8, 8),
        prediction_type=bundle.training.prediction_type,
        seed=5,
        class_shares=bundle.class_shares,
    )
    theirs = seen[case].transpose(0, 3, 1, 2)
    np.testing.assert_allclose(theirs, ours.numpy() / 2 + 0.5, rtol=0, atol=1e-6)
    assert theirs.std() > 0.1


@pytest.mark.parametrize("case", ["ddim", "flow, dit"])
def test_its_readme_draws_and_its_script_trains_again(case, folders, plain_python, tmp_path):
    """The retrained pipeline is drawn from as the README says."""
    folder, out = folders[case], tmp_path / "again" / "pipeline"
    ran = plain_python(folder / "train_with_strategy.py", "--steps=2", "--out", out, cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    text = (folder / "README.md").read_text()
    drawing, *others = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert "class_labels=[0] * 8 + [1] * 8" in drawing
    assert "unconditional-image-generation" not in text
    count = "assert len(images) == 16"
    elsewhere = f"import os\nos.chdir({str(out.parent)!r})"
    code = "\n".join([drawing, count, *others, elsewhere, drawing, count])
    ran = plain_python("-c", code, cwd=folder)
    assert ran.returncode == 0, ran.stderr


def test_the_script_takes_a_folder_for_each_class(bundles, folders, tmp_path):
    script = runpy.run_path(str(folders["ddim"] / "train_with_strategy.py"))
    denoiser = bundles["ddim"].denoiser
    for label in range(11):
        (tmp_path / f"{label:02}").mkdir()
        Image.new("L", (9, 9), 20 * label).save(tmp_path / f"{label:02}" / "a.png")
    images, labels = script["load_images"](tmp_path, 1, 8)
    assert labels.tolist() == images[:, 0, 0, 0].add(1).mul(127.5 / 20).round().tolist()
    line = "--data must be 1 to 10 folders of images, one a class, got"
    with pytest.raises(SystemExit, match=f"^{line} 11$"):
        script["check_classes"](denoiser, labels)
    (tmp_path / "10" / "a.png").unlink()
    script["check_classes"](denoiser, script["load_images"](tmp_path, 1, 8)[1])
    Image.new("L", (9, 9)).save(tmp_path / "beside.png")
    with pytest.raises(SystemExit, match=f"^{line} 0$"):
        script["check_classes"](denoiser, script["load_images"](tmp_path, 1, 8)[1])
