"""Where a trained denoiser comes from, and what is none."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from stepsearch.config import merge
from stepsearch.errors import UserError
from stepsearch.search.config import SearchConfig
from stepsearch.search.folder import SearchFolder
from stepsearch.search.history import History
from stepsearch.study import Objective, RandomConfig, Study
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


@pytest.mark.parametrize(
    ("file", "change", "line"),
    [
        ("unet/config.json", {"_class_name": "UNet2DConditionModel"},
         "checkpoint must hold a UNet2DModel, got UNet2DConditionModel"),
        ("unet/config.json", {"class_embed_type": "timestep"},
         "checkpoint must hold a UNet2DModel with a table of 2 or more classes or none, got "
         "class_embed_type 'timestep' and num_class_embeds None"),
        ("unet/config.json", {"num_class_embeds": 1},
         "checkpoint must hold a UNet2DModel with a table of 2 or more classes or none, got "
         "class_embed_type None and num_class_embeds 1"),
        ("unet/config.json", {"sample_size": None},
         "checkpoint must say the size of its images in unet/config.json, got in_channels 1 and "
         "sample_size None"),
        ("scheduler/scheduler_config.json", {"num_train_timesteps": 10**12},
         "checkpoint must have 2 to 100000 timesteps, got 1000000000000"),
        ("scheduler/scheduler_config.json", {"_class_name": "EDM", "beta_schedule": "pink"},
         "checkpoint must have a process that diffusers knows: pink is not implemented for "
         "<class 'diffusers.schedulers.scheduling_ddpm.DDPMScheduler'>"),
        ("unet/config.json", {"block_out_channels": [16, 16]},
         "checkpoint must have weights that fit its config: Error(s) in loading state_dict for "
         "UNet2DModel: size mismatch for "),
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
    assert str(error.value).startswith(line)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", ["{", "[1]", "[" * 100_000])
def test_a_config_that_is_none_is_refused(
    saved_pipeline: Path, tmp_path: Path, content: str
) -> None:
    folder = shutil.copytree(saved_pipeline, tmp_path / "broken")
    (folder / "unet" / "config.json").write_text(content)
    with pytest.raises(UserError, match=r"^checkpoint.path must have (JSON|a mapping) in config"):
        look(FolderCheckpoint(path=folder))


def test_damaged_weights_are_refused(saved_pipeline: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(saved_pipeline, tmp_path / "damaged")
    (weights,) = (folder / "unet").glob("*.safetensors")
    weights.chmod(0o600)
    tensors = load_file(weights)
    lost, *others = sorted(tensors)
    save_file({name: tensors[name] for name in others}, weights, {"format": "pt"})
    with pytest.raises(UserError) as error:
        look(FolderCheckpoint(path=folder)).load()
    line = f"checkpoint must have weights that fit its config, got 1 that do not, {lost} the first"
    assert str(error.value) == line
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(UserError, match=r"^checkpoint must have weights that fit its config: "):
        look(FolderCheckpoint(path=folder)).load()
