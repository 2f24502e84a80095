"""What a trial leaves behind by noise level."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stepsearch.config import parse
from stepsearch.errors import UserError
from stepsearch.search.trial import Trial
from stepsearch.strategies import strategy
from tests.trainers.test_denoising import Listener
from trainers import DenoisingConfig, trainer
from trainers.diagnostics import draw_diagnostics, effective_share
from trainers.rows import read_rows
from trainers.training_trial import run

SMALL = {
    "denoiser": {"channels": [8, 16]},
    "training": {"batch_size": 32, "warmup_steps": 2},
    "sampler": {"num_steps": 2},
    "judge": {"samples": 32, "classifier": {"budget": 1000}},
}


def trained(folder: Path, **changes: object) -> tuple[DenoisingConfig, Path]:
    config = trainer(**{**SMALL, **changes})
    (folder / "trial").mkdir()
    listener = Listener(last=1920)
    run(Trial(0, config, 0, (960, 1920), folder / "trial", folder), listener)
    return config, folder / "trial"


def test_draws_losses_and_gradients_are_recorded_and_drawn(tmp_path: Path) -> None:
    config, folder = trained(tmp_path, gradient_images=4, strategy={"kind": "logit_normal"})
    rows = read_rows(folder / "loss.jsonl")
    assert [row["images_seen"] for row in rows] == [960, 1920]
    for row in rows:
        assert sum(row["declared"]) == pytest.approx(1)
        assert sum(row["count"]) == 960
        drawn = np.array(row["count"]) / 960
        assert np.abs(drawn - row["declared"]).max() < 0.02  # the draws are stratified
        assert row["effective"] == pytest.approx(1)
        assert len(row["gradient_norm"]) == len(row["gradient_variance"]) == 20
        assert all(value is None or value > 0 for value in row["gradient_variance"])
    config.illustrate(folder)
    names = {file.name for file in (folder / "pictures").glob("*_by_log_snr.png")}
    assert names == {
        "loss_by_log_snr.png",
        "draws_by_log_snr.png",
        "gradient_norm_by_log_snr.png",
        "gradient_variance_by_log_snr.png",
    }
    for name in names:
        with Image.open(folder / "pictures" / name) as picture:
            assert picture.width > 500


def test_gradients_are_recorded_of_a_denoiser_with_stages(tmp_path: Path) -> None:
    stages = {"kind": "multistage_unet", "channels": [8, 16], "boundaries": [0.1, 0.4]}
    _, folder = trained(tmp_path, gradient_images=4, denoiser=stages)
    for row in read_rows(folder / "loss.jsonl"):
        assert all(value is None or value > 0 for value in row["gradient_norm"])
        assert any(row["gradient_norm"])


def test_gradients_are_left_out_unless_they_are_asked_for(tmp_path: Path) -> None:
    config, folder = trained(tmp_path, strategy={"kind": "min_snr"})
    (first, _) = read_rows(folder / "loss.jsonl")
    assert "gradient_norm" not in first
    assert 0 < first["effective"] < 1
    config.illustrate(folder)
    assert not list((folder / "pictures").glob("gradient*"))


def test_rows_of_older_trials_have_their_losses_drawn(tmp_path: Path) -> None:
    row = {"images_seen": 10, "log_snr": [-1.0, 1.0], "count": [5.0, 5.0], "loss": [0.5, None]}
    draw_diagnostics([json.loads(json.dumps(row))], tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["loss_by_log_snr.png"]


def test_the_effective_share_is_kishs() -> None:
    alpha_bar = trainer().noise.build().alpha_bar
    speed = strategy("speed").build(alpha_bar)
    drawn = np.random.default_rng(0).choice(1000, 200_000, p=speed.p)
    w = speed.w[drawn]
    assert effective_share(speed.p, speed.w) == pytest.approx(
        w.sum() ** 2 / (w**2).sum() / len(w), rel=1e-2
    )
    assert effective_share(np.full(4, 0.25), np.array([1.0, 0, 0, 0])) == 0.25


@pytest.mark.parametrize(
    ("value", "line"),
    [
        (3, "gradient_images must be a multiple of 4, got 3"),
        (-4, "gradient_images must be at least 0, got -4"),
        (2000, "gradient_images must be at most 1024, got 2000"),
    ],
)
def test_a_wrong_number_of_images_is_refused(value: int, line: str) -> None:
    with pytest.raises(UserError) as error:
        parse(DenoisingConfig, {"gradient_images": value})
    assert str(error.value) == line


def test_workers_with_a_stage_each_have_no_common_gradient() -> None:
    stages = {"kind": "multistage_unet", "boundaries": [0.1, 0.4], "stages_a_worker": "one"}
    config = trainer(denoiser=stages, training={"batch_size": 96}, gradient_images=4)
    with pytest.raises(UserError, match="gradient_images must be 0 where each worker has a stage"):
        config.check(workers=3)
