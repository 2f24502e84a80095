"""Trials that tune the times of denoisers of latents: the judge and all who look see pictures."""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, DDPMScheduler
from PIL import Image
from torch import nn

import run_search
from stepsearch.diffusion.datasets.latents import decoder
from stepsearch.diffusion.denoisers import DiTConfig, UNetConfig
from stepsearch.diffusion.noise import VPConfig
from stepsearch.diffusion.workers import ALONE
from stepsearch.errors import Diverged, UserError
from stepsearch.evaluation import frechet_distance, statistics
from stepsearch.evaluation.distances import energy_distance
from stepsearch.evaluation.judge import pixel_features
from stepsearch.pictures import beside, sample_grid
from stepsearch.sampling.bundle.denoiser_pipeline import DenoiserPipeline
from stepsearch.sampling.timetuner import draw, load_tuned
from stepsearch.sampling.timetuner.shifts import GRADIENTS
from stepsearch.sampling.timetuner.tuned_timesteps import attach, load
from tests.latents import write_vae
from tests.trainers.timetuner.conftest import exported, heard
from trainers.drawing_trial import TIMES
from trainers.judging import judge_of
from trainers.subject import subject_of
from trainers.tuning import solution

CPU = torch.device("cpu")
SHAPE = (4, 4, 4)
MOVED = {"r": (0.1, 0.2, -0.1, 0.3)}
GUIDED = {"num_steps": 4, "guidance": 2.0}


def awake(network: nn.Module) -> nn.Module:
    """With weights of which none is 0, as those of a new transformer are."""
    chance = torch.Generator().manual_seed(0)
    for weights in network.parameters():
        nn.init.normal_(weights, std=0.1, generator=chance)
    return network.eval()


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "unet": lambda: UNetConfig(channels=(8, 16)).build(SHAPE, 0).eval(),
    "dit": lambda: awake(DiTConfig(layers=1).build(SHAPE, 0)),
    "dit with classes": lambda: awake(DiTConfig(layers=1).build(SHAPE, 0, classes=10)),
}


@pytest.fixture(scope="module")
def folders(encoded: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Pipelines as in a bundle."""
    home = tmp_path_factory.mktemp("latent checkpoints")
    vae = AutoencoderKL.from_pretrained(encoded / "vae")
    scheduler = DDPMScheduler(**VPConfig().build().scheduler_config(), clip_sample=False)
    for name, build in NETWORKS.items():
        DenoiserPipeline(build(), scheduler, vae).save_pretrained(home / name / "pipeline")
    return {name: home / name for name in NETWORKS}


@pytest.fixture
def latent(config: Any, folders: dict[str, Path], encoded: Path) -> Callable[..., Any]:
    """latent("dit", times={...}): a trainer on the latents of digits."""

    def make(name: str = "unet", **fields: Any) -> Any:
        data = {"kind": "latents", "path": str(encoded)}
        checkpoint = {"kind": "folder", "path": str(folders[name])}
        return config(**{"checkpoint": checkpoint, "dataset": data} | fields)

    return make


@pytest.mark.parametrize(
    ("name", "sampler"),
    [("unet", {"kind": "dpmpp_2m", "num_steps": 4}), ("dit with classes", GUIDED)],
)
def test_the_judge_looks_at_decoded_pictures_and_the_energy_at_latents(
    name: str, sampler: Any, latent: Any, trial: Any
) -> None:
    made = trial(latent(name, sampler=sampler, times=MOVED, score="energy"))
    made.config.check(workers=1)
    (metrics,) = heard(made)
    at = subject_of(made.config.checkpoint, made.config.dataset, CPU)
    network = at.network(made.config.sampler, "embedding")
    tau = torch.tensor(json.loads((made.folder / TIMES).read_text())["tau"])
    drawn = draw(network, tau, 32, shape=SHAPE, seed=0)
    assert drawn.abs().max() > 1, "nothing clips latents"
    data = made.config.dataset.load()
    pictures = decoder(data.vae, CPU)(drawn)
    assert pictures.shape == (32, 1, 8, 8)
    judge = judge_of(made.config.judge, made.config.dataset, made.cache)
    for score, value in judge.score(pictures).items():
        assert metrics[score] == pytest.approx(value, rel=1e-6, nan_ok=True), score
    energy = energy_distance(data.train.float().flatten(1), drawn.flatten(1))
    assert metrics["energy"] == pytest.approx(float(energy), rel=1e-5)
    untuned = draw(network, network.solver.times, 32, shape=SHAPE, seed=0)
    sides = [sample_grid(decoder(data.vae, CPU)(side).numpy()) for side in (untuned, drawn)]
    with Image.open(made.folder / "pictures/untuned_and_tuned_000000032.png") as picture:
        np.testing.assert_array_equal(np.asarray(picture), np.asarray(beside(*sides)))


def test_many_latents_are_decoded_in_parts(latent: Any) -> None:
    made = latent("dit")
    at = subject_of(made.checkpoint, made.dataset, CPU)
    latents = torch.randn(300, *SHAPE, generator=torch.Generator().manual_seed(0))
    pictures = at.pictures(latents)
    whole = decoder(made.dataset.load().vae, CPU)(latents)
    torch.testing.assert_close(pictures, whole, rtol=0, atol=1e-5)


@pytest.mark.parametrize("strategy", GRADIENTS)
def test_the_gradients_look_at_latents(strategy: Any, latent: Any, tmp_path: Path) -> None:
    untuned = latent("dit").untuned
    found = solution(untuned, strategy, ALONE, tmp_path)
    assert len(found.tau) == 4
    assert all(math.isfinite(tau) for tau in found.tau)


def test_a_teachers_gap_is_one_of_latents(latent: Any, trial: Any) -> None:
    teacher = {"score": "teacher", "teacher": {"num_steps": 10}}
    made = trial(latent("dit", times=MOVED, **teacher), (8,))
    made.config.check(workers=1)
    (metrics,) = heard(made)
    at = subject_of(made.config.checkpoint, made.config.dataset, CPU)
    networks = [at.network(each, "embedding") for each in (made.config.teacher, latent().sampler)]
    tau = torch.tensor(json.loads((made.folder / TIMES).read_text())["tau"])
    wanted, drawn = (
        draw(network, times, 8, shape=SHAPE, seed=0)
        for network, times in zip(networks, (networks[0].solver.times, tau), strict=True)
    )
    gap = float((drawn - wanted).flatten(1).norm(dim=1).mean())
    assert metrics["gap"] == pytest.approx(gap, rel=1e-6)
    with pytest.raises(Diverged, match=r"^gap of the untuned times must be above 0"):
        heard(trial(latent("dit", **teacher, sampler={"num_steps": 10}), (8,)))


def test_an_export_is_judged_by_decoded_pictures(latent: Any, trial: Any, tmp_path: Path) -> None:
    made = trial(latent("dit with classes", sampler=GUIDED, score="energy"))
    heard(made)
    file = load_tuned(exported(made, tmp_path / "out") / "timetuner.json")
    assert file.verdict["metric"] == "pixel_fd"
    assert (file.guidance_scale, file.denoiser["class"]) == (2.0, "ClassConditionalDiT")
    at = subject_of(made.config.checkpoint, made.config.dataset, CPU)
    network = at.network(made.config.sampler, "embedding")
    drawn = draw(network, network.solver.times, 32, shape=SHAPE, seed=1_000_001)
    features = pixel_features(decoder(at.vae, CPU)(drawn))
    real = pixel_features(made.config.dataset.pictures_of().train)
    expected = frechet_distance(*statistics(real), *statistics(features))
    assert file.verdict["tuned"][0] == pytest.approx(expected, rel=1e-5)
    attach(at.denoiser, load(tmp_path / "out" / "timetuner.json")).remove()


def test_the_probe_draws_decodes_and_judges(latent: Any) -> None:
    cost = latent("dit").probe(gpu=False)
    assert cost.step_s > 0
    assert cost.evaluation_s > 0


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({"sampler": {"num_steps": 4, "clip_sample": True}},
         "sampler.clip_sample must be false for latents, which are not in [-1, 1], got true"),
        ({"teacher": {"clip_sample": True}},
         "teacher.clip_sample must be false for latents, which are not in [-1, 1], got true"),
        ({"sampler": {"kind": "analytic_ddim", "num_steps": 4}},
         "sampler.kind must not be analytic for latents, as its variances are bounded by those of "
         "pixels in [-1, 1], got 'analytic_ddim'"),
        ({"sampler": GUIDED},
         "sampler.guidance must be 1 for a denoiser without classes, got 2"),
        ({"dataset": {"kind": "digits"}},
         "dataset must have latents, which the checkpoint draws, got pictures"),
    ],
)  # fmt: skip
def test_what_does_not_fit_latents_is_refused(latent: Any, fields: Any, line: str) -> None:
    with pytest.raises(UserError) as caught:
        latent(**fields).check(workers=1)
    assert str(caught.value) == line


def test_a_denoiser_of_pictures_is_refused_for_latents(config: Any, encoded: Path) -> None:
    with pytest.raises(UserError) as caught:
        config(dataset={"kind": "latents", "path": str(encoded)}).check(workers=1)
    assert str(caught.value) == (
        "dataset must have pictures, which the checkpoint draws, got latents"
    )


def test_pictures_that_are_gone_are_told_before_anything_is_spent(
    latent: Any, encoded: Path, tmp_path: Path
) -> None:
    gone = {"kind": "latents", "path": str(encoded), "pictures": str(tmp_path / "gone")}
    with pytest.raises(UserError, match=r"^the judge needs the pictures that were encoded"):
        latent(dataset=gone).check(workers=1)


def test_the_search_in_the_guide_is_one(
    folders: dict[str, Path], encoded: Path, tmp_path: Path
) -> None:
    page = (Path(run_search.__file__).parent / "docs" / "timetuner.md").read_text()
    (example,) = re.findall(r"```yaml\n(name: latent-times.*?)```", page, re.DOTALL)
    file = tmp_path / "search.yaml"
    file.write_text(example)
    loaded = run_search.load(
        file,
        [
            f"trainer.checkpoint={{kind: folder, path: '{folders['dit']}'}}",
            f"trainer.dataset.path='{encoded}'",
        ],
    )
    loaded.trainer.check(workers=1)
    loaded.space.check(loaded.trainer.facts())


@pytest.mark.parametrize("changes", [{"seed": 1}, {"scaling_factor": 3.0}])
def test_latents_of_another_autoencoder_are_refused(
    latent: Any, folders: dict[str, Path], encoded: Path, tmp_path: Path, changes: Any
) -> None:
    moved = shutil.copytree(folders["unet"], tmp_path / "moved")
    other = {"kind": "folder", "path": str(moved)}
    latent(checkpoint=other).check(workers=1)
    vae = moved / "pipeline" / "vae"
    shutil.rmtree(vae)
    write_vae(vae, **changes)
    spoiled = shutil.copytree(moved, tmp_path / "spoiled")  # a checkpoint is looked at once
    with pytest.raises(UserError) as caught:
        latent(checkpoint={"kind": "folder", "path": str(spoiled)}).check(workers=1)
    assert str(caught.value) == (
        f"dataset must have latents of the checkpoint's autoencoder, {spoiled}/pipeline/vae, got "
        f"those of another one: {encoded}/vae"
    )
