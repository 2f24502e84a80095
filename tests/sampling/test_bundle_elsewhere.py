"""A bundle where stepsearch is not installed: plain PyTorch, diffusers and pandas."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import chisquare

from stepsearch.diffusion.datasets import DigitsConfig
from stepsearch.diffusion.denoisers import UNetConfig
from stepsearch.diffusion.seeds import generator
from stepsearch.diffusion.training import Training
from stepsearch.sampling.bundle import write_bundle
from stepsearch.sampling.sampler import generate

pytestmark = pytest.mark.slow

GUIDE = Path(__file__).parents[2] / "docs" / "export.md"
IMAGES = 6

# a sampler, its noise process and its target; each is drawn by the pipeline of the sampler's kind
CASES = {
    "ddim": {},
    "ddim, v, no clipping": {
        "noise": {"schedule": "cosine"},
        "training": {"prediction_type": "v_prediction"},
        "sampler": {"num_steps": 20, "clip_sample": False, "eta": 0.5},
    },
    "ddim, x0, T = 200": {
        "noise": {"schedule": "quad", "timesteps": 200},
        "training": {"prediction_type": "sample"},
        "sampler": {"num_steps": 8},
    },
    "ddpm": {"sampler": {"kind": "ddpm", "num_steps": 25}},
    "ddpm, v": {
        "noise": {"schedule": "scaled_linear"},
        "training": {"prediction_type": "v_prediction"},
        "sampler": {"kind": "ddpm", "num_steps": 10, "clip_sample": False},
    },
    "ddim, zero SNR": {
        "noise": {"zero_terminal_snr": True},
        "training": {"prediction_type": "v_prediction"},
    },
    "edm": {
        "noise": {"kind": "edm", "sigma_min": 0.01, "timesteps": 200},
        "training": {"prediction_type": "edm", "batch_size": 4},
        "sampler": {"kind": "euler"},
    },
    "edm, dpm": {
        "noise": {"kind": "edm"},
        "training": {"prediction_type": "edm"},
        "sampler": {"kind": "dpm", "num_steps": 7},
    },
    "flow": {
        "noise": {"kind": "flow", "shift": 3},
        "training": {"prediction_type": "flow"},
        "sampler": {"kind": "euler", "num_steps": 12},
    },
    "ddim, stages": {"boundaries": (0.442,)},
    "ddim, dit": {"transformer": True},
    "flow, dit": {
        "transformer": True,
        "noise": {"kind": "flow"},
        "training": {"prediction_type": "flow"},
        "sampler": {"kind": "euler", "num_steps": 5},
    },
    "edm, stages": {
        "boundaries": (0.3,),
        "noise": {"kind": "edm"},
        "training": {"prediction_type": "edm"},
        "sampler": {"kind": "euler"},
    },
}
DISCRETE = [name for name, parts in CASES.items() if "kind" not in parts.get("noise", {})]

PROBE = """
import importlib.util, json, sys
from pathlib import Path
import numpy as np, pandas as pd, torch
from diffusers import DDIMPipeline, DDIMScheduler, DDPMPipeline, DDPMScheduler
from diffusers import DiffusionPipeline

torch.set_num_threads(1)
cases, seeds = json.loads(sys.argv[1]), json.loads(sys.argv[2])
arrays = {}
for name, case in cases.items():
    classes = {"ddim": DDIMPipeline, "ddpm": DDPMPipeline}
    pipeline = classes.get(case["kind"], DiffusionPipeline).from_pretrained(
        Path(case["folder"]) / "pipeline",
        local_files_only=True,
        trust_remote_code=case["own_code"],
    )
    expected = {"ddim": DDIMScheduler, "ddpm": DDPMScheduler}.get(case["kind"])
    assert expected in (None, type(pipeline.scheduler)), type(pipeline.scheduler)
    pipeline.set_progress_bar_config(disable=True)
    options = {"eta": case["eta"]} if case["kind"] == "ddim" else {}
    noise = [torch.Generator().manual_seed(seed) for seed in seeds]
    images = pipeline(
        batch_size=len(seeds),
        generator=noise,
        num_inference_steps=case["num_steps"],
        output_type="np",
        **options,
    ).images
    arrays[f"images/{name}"] = images
    if expected:
        arrays[f"alpha_bar/{name}"] = pipeline.scheduler.alphas_cumprod.numpy()

bundle = Path(cases["ddim"]["folder"])
spec = importlib.util.spec_from_file_location("script", bundle / "train_with_strategy.py")
script = importlib.util.module_from_spec(spec)
spec.loader.exec_module(script)
strategy = json.loads((bundle / "strategy.json").read_text())
p = torch.tensor(strategy["p"], dtype=torch.float64)
draws = torch.cat([script.draw_timesteps(p, 64) for _ in range(1000)])
arrays["draws"] = np.bincount(draws.numpy(), minlength=len(p))

x0, noise = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
for name, case in cases.items():
    other = json.loads((Path(case["folder"]) / "strategy.json").read_text())
    a, b, time = script.levels(other["schedule"])
    goal = script.target(other, x0, noise, a.view(-1, 1, 1), b.view(-1, 1, 1))
    arrays[f"levels/{name}"] = torch.stack([a, b, time]).numpy()
    arrays[f"goal/{name}"] = goal.numpy()

csv = pd.read_csv(bundle / "leaderboard.csv")
pd.testing.assert_frame_equal(csv, pd.read_parquet(bundle / "leaderboard.parquet"))
arrays["trials"] = csv["trial"].to_numpy()
np.savez("seen.npz", **arrays)
"""


@pytest.fixture(scope="module")
def bundles(make_bundle):
    return {name: make_bundle(**parts) for name, parts in CASES.items()}


@pytest.fixture(scope="module")
def seen(bundles, plain_python, tmp_path_factory):
    """What the probe saw of all bundles, in one process: loading diffusers takes long."""
    home = tmp_path_factory.mktemp("elsewhere")
    cases = {}
    for index, (name, bundle) in enumerate(bundles.items()):
        folder = write_bundle(home / str(index), bundle)
        own_code = name.endswith(("stages", "dit"))
        cases[name] = {"folder": str(folder), "own_code": own_code, **bundle.sampler.model_dump()}
    seeds = [generator("image", 5, i).initial_seed() for i in range(IMAGES)]
    ran = plain_python("-c", PROBE, json.dumps(cases), json.dumps(seeds), cwd=home)
    assert ran.returncode == 0, ran.stderr
    return np.load(home / "seen.npz")


@pytest.fixture(scope="module")
def exported(make_bundle, tmp_path_factory):
    """The bundle of a denoiser after some training, with a second average of its weights."""
    bundle = make_bundle(training={"ema_halflives": [640]})
    training = Training(
        bundle.training,
        bundle.denoiser,
        bundle.process,
        bundle.strategy,
        DigitsConfig().load().train,
        budget=64 * 20,
        seed=0,
    )
    training.run(training.budget)
    folder = tmp_path_factory.mktemp("exports") / "winner"
    return write_bundle(folder, make_bundle(denoiser=training.ema, averages=training.averages))


def test_stepsearch_is_not_there(plain_python, tmp_path):
    ran = plain_python("-c", "import stepsearch", cwd=tmp_path)
    assert "ModuleNotFoundError: No module named 'stepsearch'" in ran.stderr


@pytest.mark.parametrize("case", CASES)
def test_diffusers_pipelines_draw_our_samplers_images(case, bundles, seen):
    bundle = bundles[case]
    ours = generate(
        bundle.denoiser,
        bundle.process,
        bundle.sampler,
        IMAGES,
        shape=(1, 8, 8),
        prediction_type=bundle.training.prediction_type,
        seed=5,
    )
    theirs = seen[f"images/{case}"].transpose(0, 3, 1, 2)
    np.testing.assert_allclose(theirs, ours.numpy() / 2 + 0.5, rtol=0, atol=1e-6)
    assert theirs.std() > 0.1


@pytest.mark.parametrize("case", CASES)
def test_the_script_trains_on_the_process_and_the_target_of_the_trial(case, bundles, seen):
    process, target = bundles[case].process, bundles[case].training.prediction_type
    x0, noise = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    t = torch.arange(process.T)
    ours = torch.stack([*process.coefficients(t), process.time(t)])
    np.testing.assert_allclose(seen[f"levels/{case}"], ours, rtol=1e-4, atol=1e-6)
    x0, noise = x0.expand(process.T, 8, 8), noise.expand(process.T, 8, 8)
    goal = process.target(x0, noise, t, target)
    np.testing.assert_allclose(np.broadcast_to(seen[f"goal/{case}"], goal.shape), goal, atol=1e-4)


@pytest.mark.parametrize("case", DISCRETE)
def test_the_pipelines_noise_schedule_is_that_of_the_strategy(case, bundles, seen):
    np.testing.assert_allclose(
        seen[f"alpha_bar/{case}"], bundles[case].process.alpha_bar, rtol=1e-3, atol=1e-6
    )


def test_the_scripts_timesteps_follow_p(bundles, seen):
    """1000 batches of 64, counted in bins of 20 timesteps; a uniform density does not fit them."""
    counts = seen["draws"].reshape(-1, 20).sum(1)
    p = bundles["ddim"].strategy.p.reshape(-1, 20).sum(1)
    assert counts.sum() == 64_000
    assert chisquare(counts, p * counts.sum()).pvalue > 1e-3
    assert chisquare(counts).pvalue < 1e-9


def test_pandas_reads_the_same_leaderboard_from_both_files(bundles, seen):
    assert seen["trials"].tolist() == bundles["ddim"].leaderboard["trial"].tolist()


def test_the_script_trains_as_it_is(exported, plain_python, tmp_path):
    """The loss falls, and what comes out is a pipeline."""
    script = exported / "train_with_strategy.py"
    out = tmp_path / "retrained"
    ran = plain_python(script, "--steps", "30", "--out", out, cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    losses = [float(loss) for loss in re.findall(r"loss (\S+)", ran.stdout)]
    assert len(losses) == 10
    assert losses[-1] < 0.7 * losses[0]
    assert (out / "model_index.json").read_text() == (
        exported / "pipeline" / "model_index.json"
    ).read_text()


def test_the_script_refuses_digits_for_a_denoiser_of_other_images(
    make_bundle, plain_python, tmp_path
):
    colour = UNetConfig(channels=(8, 16)).build((3, 16, 16), seed=0)
    folder = write_bundle(tmp_path / "b", make_bundle(denoiser=colour))
    ran = plain_python(folder / "train_with_strategy.py", cwd=tmp_path)
    assert ran.returncode == 1
    assert ran.stderr.endswith("--data is required: the denoiser draws 3x16x16 images\n")


def test_the_script_trains_on_a_folder_of_images_also_with_edm(
    make_bundle, plain_python, tmp_path
):
    (tmp_path / "images" / "a").mkdir(parents=True)
    for index, mode in enumerate(("L", "RGB", "RGBA")):
        Image.new(mode, (20 + index, 30), "white").save(tmp_path / f"images/a/{index}.png")
    folder = write_bundle(tmp_path / "b", make_bundle(**CASES["edm"]))
    script = folder / "train_with_strategy.py"
    ran = plain_python(script, "--data", tmp_path / "images", "--steps", "2", cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert (tmp_path / "retrained" / "unet" / "config.json").exists()
    index = "pipeline/model_index.json"
    retrained = (tmp_path / "retrained" / "model_index.json").read_text()
    assert retrained == (folder / index).read_text()


@pytest.mark.parametrize(
    ("case", "sign"),
    [
        ("ddim, stages", "len(pipeline.unet.decoders) == 2"),
        ("ddim, dit", "type(pipeline.unet).__name__ == 'UnconditionalDiT'"),
    ],
)
def test_a_denoiser_that_diffusers_lacks_is_drawn_from_and_trained_again(
    case, sign, bundles, plain_python, tmp_path
):
    """As its own README says, and the retrained pipeline in the same way."""
    folder = write_bundle(tmp_path / "b", bundles[case])
    out = folder / "retrained" / "pipeline"
    ran = plain_python(folder / "train_with_strategy.py", "--steps=2", "--out", out, cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    blocks = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    drawing = f"{blocks[0]}\nassert len(images) == 16\nassert {sign}\n"
    assert "trust_remote_code=True" in drawing
    for home in (folder, out.parent):
        ran = plain_python("-c", drawing, cwd=home)
        assert ran.returncode == 0, ran.stderr


def test_diffusers_own_transformer_loads_the_weights_without_code(bundles, plain_python, tmp_path):
    folder = write_bundle(tmp_path / "b", bundles["ddim, dit"])
    (folder / "pipeline/unet/unconditional_dit.py").unlink()
    code = (
        "import torch\nfrom diffusers import DiTTransformer2DModel\n"
        "denoiser = DiTTransformer2DModel.from_pretrained('pipeline/unet')\n"
        "t, null = torch.tensor([3, 900]), torch.tensor([0, 0])\n"
        "torch.save(denoiser(torch.ones(2, 1, 8, 8), t, null).sample.detach(), 'output.pt')\n"
    )
    ran = plain_python("-c", code, cwd=folder)
    assert ran.returncode == 0, ran.stderr
    output = torch.load(folder / "output.pt", weights_only=True)
    expected = bundles["ddim, dit"].denoiser.eval()(torch.ones(2, 1, 8, 8), torch.tensor([3, 900]))
    torch.testing.assert_close(output, expected.sample)


@pytest.mark.parametrize("page", ["README.md", GUIDE])
def test_the_python_on_the_pages_runs_as_it_stands(page, exported, plain_python):
    text = (exported / page).read_text()
    blocks = re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    # fewer steps, or the test would take minutes
    code = "\n".join(blocks).replace("num_inference_steps=1000", "num_inference_steps=5")
    assert len(blocks) >= 3
    ran = plain_python("-c", code, cwd=exported)
    assert ran.returncode == 0, ran.stderr


@pytest.mark.parametrize(
    ("case", "scheduler"),
    [("edm, dpm", "EDMDPMSolverMultistepScheduler"), ("flow", "FlowMatchEulerDiscreteScheduler")],
)
def test_the_python_of_another_processs_readme_runs(
    case, scheduler, bundles, plain_python, tmp_path
):
    folder = write_bundle(tmp_path / "b", bundles[case])
    text = (folder / "README.md").read_text()
    blocks = re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    assert len(blocks) == 2
    assert scheduler in text
    check = (
        f"assert type(pipeline.scheduler).__name__ == {scheduler!r}\nassert len(images) == 16\n"
    )
    ran = plain_python("-c", "\n".join([*blocks, check]), cwd=folder)
    assert ran.returncode == 0, ran.stderr
