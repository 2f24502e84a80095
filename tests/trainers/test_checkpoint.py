"""Where a trained denoiser comes from, and what is none."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMPipeline, DDIMScheduler, DiTTransformer2DModel, UNet2DModel
from safetensors.torch import load_file, save_file

from stepsearch.config import merge
from stepsearch.diffusion.denoisers import DiTConfig
from stepsearch.diffusion.denoisers.unconditional_dit import ClassConditionalDiT
from stepsearch.diffusion.noise import VPConfig
from stepsearch.errors import UserError
from stepsearch.sampling.timetuner import SolverConfig
from stepsearch.search.config import SearchConfig
from stepsearch.search.folder import SearchFolder
from stepsearch.search.history import History
from stepsearch.study import Objective, RandomConfig, Study
from tests.latents import write_vae
from trainers import trainer
from trainers.checkpoint import FolderCheckpoint, SearchCheckpoint, look
from trainers.training_trial import CHECKPOINT

BATCH = 8
TRAINER = {
    "denoiser": {"channels": [8, 16]},
    "training": {"batch_size": BATCH, "warmup_steps": 0, "prediction_type": "v_prediction"},
    "noise": {"schedule": "cosine"},
}


@pytest.fixture
def searched(tmp_path: Path) -> Callable[..., Path]:
    """searched("old", [3.0, 1.0]): the storage with a search whose trials ended so."""

    def make(name: str, values: list[float], **changes: Any) -> Path:
        data = {
            "name": name,
            "space": {"kind": "speed"},
            "trainer": TRAINER | changes,
            "storage": tmp_path,
            "objectives": [{"name": "fd_digits"}],
            "budget": {"trials": 2, "images": BATCH},
        }
        config = SearchConfig.model_validate(data)
        folder = SearchFolder.create(tmp_path / name, config)
        history = History(folder.history)
        with Study.create(
            folder.study, name, [Objective("fd_digits")], RandomConfig(), seed=0
        ) as study:
            for number, value in enumerate(values):
                lr = {"training": {"lr": 1e-3 * (1 + number)}}
                study.ask(lambda trial, lr=lr: lr)  # type: ignore[misc]
                history.add(number, BATCH, {"fd_digits": value})
                study.tell(number, "finished", [value])
                if (data["trainer"]).get("kind", "denoising") == "denoising":
                    trial = trainer(**merge(merge(TRAINER, changes), lr))
                    training = trial.training_for(seed=0, budget=BATCH)
                    training.run(BATCH)
                    folder.trial(number).mkdir(parents=True)
                    training.save(folder.trial(number) / CHECKPOINT)
        return tmp_path

    return make


def test_a_search_gives_its_best_trials_averaged_weights(searched: Any) -> None:
    storage = searched("old", [3.0, 1.0])
    named = SearchCheckpoint(name="old", storage=storage)
    best, first = look(named), look(SearchCheckpoint(name="old", storage=storage, trial=0))
    assert named.pinned() == SearchCheckpoint(name="old", storage=storage, trial=1)
    assert best.prediction_type == "v_prediction"
    assert best.noise["beta_schedule"] == "squaredcos_cap_v2"
    assert best.shape == (1, 8, 8)
    training = trainer(**merge(TRAINER, {"training": {"lr": 2e-3}})).training_for(0, BATCH)
    training.run(BATCH)
    theirs = dict(best.load().named_parameters())
    for key, weights in training.ema.named_parameters():
        assert torch.equal(theirs[key], weights)
        assert not theirs[key].requires_grad
    others = dict(first.load().named_parameters())
    assert any(not torch.equal(theirs[key], others[key]) for key in theirs)


def test_a_search_on_latents_gives_their_autoencoder(searched: Any, encoded: Path) -> None:
    latents = {"kind": "latents", "path": str(encoded)}
    found = look(SearchCheckpoint(name="small", storage=searched("small", [1.0], dataset=latents)))
    assert found.shape == (4, 4, 4)
    assert found.vae == encoded / "vae"
    assert found.load()(torch.zeros(1, 4, 4, 4), 7).sample.shape == (1, 4, 4, 4)


def test_a_search_that_has_no_denoiser_to_give_is_refused(searched: Any) -> None:
    storage = searched("none", [])
    searched("two", [1.0])
    searched("edm", [1.0], noise={"kind": "edm"}, training={"prediction_type": "edm"})
    searched("tuned", [1.0], kind="timetuner")
    for name, trial, line in [
        ("none", None, "checkpoint.name must have a finished trial, none has none"),
        ("two", 7, "checkpoint.trial must have finished (0), got 7"),
        ("edm", None, "checkpoint must have a variance-preserving process (noise.kind vp), got "
         "edm of edm"),
        ("tuned", None, "checkpoint.name must be a search that trains denoisers, got 'tuned' with "
         "trainer 'timetuner'"),
        ("gone", None, f"search must be one of those in {storage} (none, two, edm, tuned), "
         "got 'gone'"),
    ]:  # fmt: skip
        with pytest.raises(UserError) as error:
            look(SearchCheckpoint(name=name, storage=storage, trial=trial))
        assert str(error.value) == line


def test_a_pipeline_and_a_bundle_around_it_are_the_same(
    saved_pipeline: Path, tmp_path: Path
) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(saved_pipeline, bundle / "pipeline")
    weights = []
    for path in (saved_pipeline, bundle):
        found = look(FolderCheckpoint(path=path))
        assert (found.shape, found.prediction_type) == ((1, 8, 8), "epsilon")
        assert found.noise["beta_schedule"] == "linear"
        assert len(found.alpha_bar) == 1000
        weights.append(found.load().state_dict())
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


def test_a_folder_without_any_signal_at_the_end_is_refused(
    saved_pipeline: Path, tmp_path: Path
) -> None:
    """Its scheduler says so, with the betas of a process that has some."""
    folder = shutil.copytree(saved_pipeline, tmp_path / "rescaled")
    noise = VPConfig(zero_terminal_snr=True).build().scheduler_config()
    scheduler = DDIMScheduler(**noise, prediction_type="v_prediction")
    denoiser = UNet2DModel.from_pretrained(folder, subfolder="unet")
    DDIMPipeline(denoiser, scheduler).save_pretrained(folder)
    checkpoint = FolderCheckpoint(path=folder)
    with pytest.raises(UserError) as error:
        look(checkpoint)
    assert str(error.value) == ("checkpoint must have some signal at T - 1, got zero terminal SNR")
    read = checkpoint.look().noise
    assert read == noise | {"trained_betas": None}
    for kind in ("ddim", "heun"):
        with pytest.raises(UserError) as error:
            SolverConfig(kind=kind).build(read, "v_prediction")
        assert str(error.value) == "noise must leave some signal at T - 1, got zero terminal SNR"


@pytest.mark.parametrize("classes", [0, 10])
def test_a_transformer_in_a_bundle_is_loaded_as_it_was(
    classes: int, saved_pipeline: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(saved_pipeline, tmp_path / "bundle" / "pipeline")
    shutil.rmtree(folder / "unet")
    network = DiTConfig(layers=1).build((1, 8, 8), seed=0, classes=classes)
    network.save_pretrained(folder / "unet")
    (folder / "unet" / "unconditional_dit.py").write_text("raise SystemExit('it was run')\n")
    found = look(FolderCheckpoint(path=tmp_path / "bundle"))
    assert (found.shape, found.classes, found.null_trained) == ((1, 8, 8), classes, classes > 0)
    assert found.vae is None
    loaded = found.load()
    assert type(loaded) is type(network)
    assert not loaded.training
    theirs = dict(network.named_parameters())
    for name, weights in loaded.named_parameters():
        assert torch.equal(weights, theirs[name])
        assert not weights.requires_grad


@pytest.mark.parametrize("out", [4, 8])
def test_diffusers_own_folder_of_a_transformer_is_one_of_latents(out: int, tmp_path: Path) -> None:
    """Also of one that predicts a variance, as the published ones do: it is left out."""
    options = {"num_layers": 1, "sample_size": 4, "num_embeds_ada_norm": 1000}
    transformer = DiTTransformer2DModel(2, 8, 4, out, **options).eval()
    transformer.save_pretrained(tmp_path / "transformer")
    DDIMScheduler().save_pretrained(tmp_path / "scheduler")
    (tmp_path / "vae").mkdir()
    with pytest.raises(UserError, match=r"vae/config.json: must be a readable file: No such file"):
        look(FolderCheckpoint(path=tmp_path))
    write_vae(tmp_path / "vae")
    found = look(FolderCheckpoint(path=tmp_path))
    assert (found.shape, found.classes) == ((4, 4, 4), 1000)
    assert found.vae == tmp_path / "vae"
    loaded = found.load()
    assert isinstance(loaded, ClassConditionalDiT)
    x, t, labels = torch.ones(2, 4, 4, 4), torch.tensor([7, 999]), torch.tensor([3, 1000])
    expected = transformer(x, t, labels).sample[:, :4]
    assert torch.equal(loaded(x, t, class_labels=labels).sample, expected)


@pytest.mark.parametrize(
    ("file", "change", "line"),
    [
        ("unet/config.json", {"_class_name": "UNet2DConditionModel"},
         "FOLDER/unet/config.json: _class_name must be one of 'UNet2DModel', "
         "'DiTTransformer2DModel', 'UnconditionalDiT', 'ClassConditionalDiT', got "
         "'UNet2DConditionModel'"),
        ("unet/config.json", {"class_embed_type": "timestep"},
         "FOLDER/unet/config.json: class_embed_type must be null, got 'timestep'"),
        ("unet/config.json", {"num_class_embeds": 1},
         "FOLDER/unet/config.json: num_class_embeds must be at least 2, got 1"),
        ("unet/config.json", {"sample_size": None},
         "FOLDER/unet/config.json: sample_size must be a list, got None"),
        ("unet/config.json", {"out_channels": 3},
         "checkpoint.path must be a network with as many channels out as in, or twice as many "
         "where it predicts a variance, got 1 in and 3 out: FOLDER/unet"),
        ("scheduler/scheduler_config.json", {"num_train_timesteps": 10**12},
         "checkpoint must have 2 to 100000 timesteps, got 1000000000000"),
        ("scheduler/scheduler_config.json", {"_class_name": "EDM", "beta_schedule": "pink"},
         "checkpoint must have a process that diffusers knows: pink is not implemented for "
         "<class 'diffusers.schedulers.scheduling_ddpm.DDPMScheduler'>"),
        ("unet/config.json", {"block_out_channels": [16, 16]},
         "checkpoint.path must hold weights that fit its config.json, got Error(s) in loading "
         "state_dict for UNet2DModel: size mismatch for "),
    ],
)  # fmt: skip
def test_a_folder_that_does_not_fit_is_refused(
    saved_pipeline: Path, tmp_path: Path, file: str, change: dict[str, Any], line: str
) -> None:
    folder = shutil.copytree(saved_pipeline, tmp_path / "changed")
    content = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps(content | change))
    with pytest.raises(UserError) as error:
        look(FolderCheckpoint(path=folder)).load()
    assert str(error.value).replace(str(folder), "FOLDER").startswith(line)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("file", ["unet/config.json", "scheduler/scheduler_config.json"])
@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("{", "must be JSON: "),
        ("[1]", "must be a mapping, got a list"),
        ("[" * 60_000, "must be JSON: "),
        (" " * (2**20 + 1), "must have at most "),
    ],
)
def test_a_config_that_is_none_is_refused(
    saved_pipeline: Path, tmp_path: Path, file: str, content: str, line: str
) -> None:
    folder = shutil.copytree(saved_pipeline, tmp_path / "broken")
    (folder / file).write_text(content)
    with pytest.raises(UserError) as error:
        look(FolderCheckpoint(path=folder))
    assert str(error.value).startswith(f"{folder}/{file}: {line}")


def test_a_folder_without_a_scheduler_is_refused(saved_pipeline: Path, tmp_path: Path) -> None:
    shutil.copytree(saved_pipeline / "unet", tmp_path / "unet")
    with pytest.raises(UserError) as error:
        look(FolderCheckpoint(path=tmp_path))
    assert str(error.value) == (
        "checkpoint.path must be a bundle or a diffusers pipeline with scheduler/, got "
        f"{str(tmp_path)!r}"
    )


def test_damaged_weights_are_refused(saved_pipeline: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(saved_pipeline, tmp_path / "damaged")
    (weights,) = (folder / "unet").glob("*.safetensors")
    weights.chmod(0o600)
    tensors = load_file(weights)
    lost, *others = sorted(tensors)
    save_file({name: tensors[name] for name in others}, weights, {"format": "pt"})
    with pytest.raises(UserError) as error:
        look(FolderCheckpoint(path=folder)).load()
    line = (
        f"checkpoint.path must hold weights that fit its config.json, got {lost} in one of them "
        f"only: {folder / 'unet'}"
    )
    assert str(error.value) == line
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(UserError, match=r"^checkpoint.path must hold weights that fit its config"):
        look(FolderCheckpoint(path=folder)).load()
