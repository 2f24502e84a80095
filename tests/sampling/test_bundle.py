"""What a bundle holds, and that it is written whole or not at all."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from diffusers import UNet2DModel
from PIL import Image

from stepsearch.diffusion.noise import PROCESSES
from stepsearch.errors import UserError
from stepsearch.pictures import sample_grid
from stepsearch.sampling.bundle import load_strategy, write_bundle
from stepsearch.sampling.bundle.card import _TAGS
from stepsearch.sampling.bundle.drawing import SCHEDULER_NAMES
from stepsearch.sampling.bundle.write import _PIPELINES
from stepsearch.sampling.sampler import generate
from stepsearch.sampling.schedulers import SCHEDULERS
from stepsearch.strategies import (
    UniformConfig,
)


def test_a_bundle_holds_what_its_users_need_and_nothing_else(folder):
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert files == {
        "README.md",
        "leaderboard.csv",
        "leaderboard.parquet",
        "pipeline/model_index.json",
        "pipeline/scheduler/scheduler_config.json",
        "pipeline/unet/config.json",
        "pipeline/unet/diffusion_pytorch_model.safetensors",
        "samples.png",
        "search.yaml",
        "strategy.json",
        "strategy.png",
        "train_with_strategy.py",
    }
    assert [path.name for path in folder.parent.iterdir()] == ["winner"]


def test_a_denoiser_with_stages_takes_its_class_along(make_bundle, tmp_path):
    bundle = make_bundle(boundaries=(0.442,))
    folder = write_bundle(tmp_path / "b", bundle)
    code = (folder / "pipeline" / "unet" / "multistage.py").read_text()
    assert "import stepsearch" not in code
    assert "from stepsearch" not in code
    index = json.loads((folder / "pipeline" / "model_index.json").read_text())
    assert index["unet"] == ["multistage", "MultistageUNet"]
    assert len({path.stat().st_mode for path in folder.rglob("*") if path.is_file()}) == 1
    p, _, file = load_strategy(folder / "strategy.json")
    np.testing.assert_array_equal(p, bundle.strategy.p)
    assert p[:441].sum() == pytest.approx(0.5)
    assert "the stages begin at timesteps 0, 441 " in file.note
    assert file.note in (folder / "README.md").read_text()


def test_other_averages_go_along_as_denoisers_of_diffusers(make_bundle, bundle, tmp_path):
    others = {halflife: make_bundle().denoiser for halflife in (5000, 250)}
    for number, denoiser in enumerate(others.values(), 1):
        torch.nn.init.constant_(denoiser.conv_out.bias, number)
    folder = write_bundle(tmp_path / "b", make_bundle(averages=others))
    for number, halflife in enumerate(others, 1):
        loaded = UNet2DModel.from_pretrained(folder / "averages" / str(halflife))
        assert loaded.conv_out.bias.tolist() == [number]
    assert len({path.stat().st_mode for path in folder.rglob("*") if path.is_file()}) == 1
    text = (folder / "README.md").read_text()
    assert "a\nweight's share halves (5,000, 250)." in text
    assert 'from_pretrained("averages/5000")' in text


def test_all_files_have_the_same_permissions(folder):
    assert len({path.stat().st_mode for path in folder.rglob("*") if path.is_file()}) == 1


def test_every_noise_process_has_a_pipeline_and_a_card():
    assert set(_PIPELINES) == set(PROCESSES) == set(_TAGS)
    pairs = {(kind, sampler) for kind, samplers in SCHEDULERS.items() for sampler in samplers}
    assert set(SCHEDULER_NAMES) == pairs


def test_the_recipe_is_kept_as_it_is(folder, bundle):
    assert (folder / "search.yaml").read_text() == bundle.recipe


def test_the_samples_are_what_the_pinned_sampler_draws(folder, bundle):
    images = generate(
        bundle.denoiser,
        bundle.process,
        bundle.sampler,
        64,
        shape=(1, 8, 8),
        prediction_type="epsilon",
        seed=0,
    )
    with Image.open(folder / "samples.png") as picture:
        np.testing.assert_array_equal(picture, sample_grid(images.numpy()))


def test_csv_and_parquet_hold_the_same_leaderboard(make_bundle, tmp_path):
    table = pd.DataFrame(
        {
            "trial": [7, 0, 3],
            "reason": ["", "nan in loss", ""],
            "value": [1 / 3, np.nan, 2.5],
            "within_guards": [True, False, True],
            "speed_up": [None, None, None],
            "param.choice": [1, "auto", None],
        }
    )
    folder = write_bundle(tmp_path / "b", make_bundle(leaderboard=table))
    csv = pd.read_csv(folder / "leaderboard.csv")
    parquet = pd.read_parquet(folder / "leaderboard.parquet")
    pd.testing.assert_frame_equal(csv, parquet, check_dtype=False, check_exact=True)
    assert csv["value"].tolist()[::2] == [1 / 3, 2.5]
    assert csv["param.choice"].tolist()[:2] == ["1", "auto"]
    assert csv["reason"].isna().tolist() == [True, False, True]


def test_the_readme_says_how_the_strategy_did(folder):
    text = (folder / "README.md").read_text()
    assert "# digits-speed, trial 7: timesteps by `speed`" in text
    assert "| tau | 500 |" in text
    assert "1.42x (3 seeds)" in text
    assert "it came to 12.5 ± 0.25, and uniform timesteps to 16 ± 0.5." in text
    assert "| fd_digits | 12.25 | 15.5 |\n| precision | 0.91 | 0.9 |" in text
    assert "DDIM in 10 steps (x0 clipped, eta 0)" in text
    assert "0123abc" in text


def test_the_readme_does_without_what_is_unknown(make_bundle, tmp_path):
    bare = make_bundle().provenance.model_copy(
        update={
            **{"speed_up": None, "git_commit": None, "direction": "maximize"},
            **{"baseline": {}, "values": (3.0,), "baseline_values": ()},
        }
    )
    write_bundle(tmp_path / "b", make_bundle(config=UniformConfig(), provenance=bare))
    text = (tmp_path / "b" / "README.md").read_text()
    assert "None" not in text
    assert "a high `fd_digits`.\n" in text
    assert "| metric | this trial |\n" in text


def test_missing_parent_folders_are_made(make_bundle, tmp_path):
    assert write_bundle(tmp_path / "a" / "b" / "c", make_bundle()).is_dir()


def test_an_existing_folder_is_left_alone(bundle, tmp_path):
    target = tmp_path / "b"
    target.mkdir()
    (target / "mine").write_text("precious")
    with pytest.raises(UserError, match=r"^folder must not exist yet, got '.*/b'$"):
        write_bundle(target, bundle)
    assert [path.name for path in tmp_path.rglob("*")] == ["b", "mine"]


def test_a_name_that_no_folder_can_have_is_refused_on_one_line(bundle, tmp_path):
    with pytest.raises(UserError, match=r"^folder must be writable, got '.*': File name too long"):
        write_bundle(tmp_path / ("b" * 300), bundle)


@pytest.mark.parametrize("place", ["file/b", "file/deep/b", "/proc/stepsearch/b"])
def test_a_folder_that_cannot_be_written_is_refused_on_one_line(place, bundle, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"^folder must be writable, got '.*/b': [^\n]+$"):
        write_bundle(tmp_path / place, bundle)


def test_a_strategy_of_another_process_is_refused(make_bundle, tmp_path):
    other = make_bundle(noise={"timesteps": 100}).strategy
    message = r"^strategy.json: p must have T = 1000 numbers, got 100$"
    with pytest.raises(UserError, match=message):
        write_bundle(tmp_path / "b", make_bundle(strategy=other))
    assert list(tmp_path.iterdir()) == []


def test_a_sampler_of_another_process_is_refused(make_bundle, tmp_path):
    message = r"^sampler.num_steps must divide T = 1000, got 7$"
    with pytest.raises(UserError, match=message):
        write_bundle(tmp_path / "b", make_bundle(sampler={"num_steps": 7}))
    assert list(tmp_path.iterdir()) == []


def test_a_failure_after_half_of_the_files_leaves_nothing_behind(make_bundle, tmp_path):
    twice = pd.DataFrame([[1, 2]], columns=["trial", "trial"])  # fine as CSV, not as Parquet
    with pytest.raises(ValueError, match="Duplicate column names"):
        write_bundle(tmp_path / "b", make_bundle(leaderboard=twice))
    assert list(tmp_path.iterdir()) == []
