"""One trial in this process: where it goes on when it is started again."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from stepsearch.diffusion import training
from stepsearch.diffusion.checkpoints import read_checkpoint
from stepsearch.errors import UserError
from stepsearch.evaluation.judge_config import score_names
from stepsearch.search.trial import Trial
from stepsearch.strategies import strategy
from tests.trainers.conftest import MILESTONES, Listener
from trainers import trainer, training_trial
from trainers.rows import last_strategy, read_rows
from trainers.training_trial import CHECKPOINT, run


@pytest.fixture
def trial(tmp_path: Path) -> Trial:
    config = trainer(
        denoiser={"channels": [8, 16]},
        training={"batch_size": 32, "warmup_steps": 2},
        sampler={"num_steps": 2},
        judge={"samples": 32, "classifier": {"budget": 1000}},
    )
    return Trial(0, config, 0, MILESTONES, tmp_path / "trial", tmp_path / "cache")


def test_a_trial_goes_on_from_the_checkpoint_before_a_damaged_one(
    trial: Trial, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole, first, second = Listener(), Listener(last=128), Listener()
    trial.folder.mkdir()
    run(trial, first)
    checkpoint = trial.folder / CHECKPOINT
    content = bytearray(checkpoint.read_bytes())
    content[len(content) // 2] ^= 1
    checkpoint.write_bytes(content)
    run(trial, second)
    assert "is unreadable" in caplog.text
    undisturbed = tmp_path / "undisturbed"
    undisturbed.mkdir()
    run(Trial(0, trial.config, 0, MILESTONES, undisturbed, trial.cache), whole)
    assert list(first.heard) == [64, 128]
    assert list(second.heard) == [64, 128, 192], "the report at its checkpoint may have been lost"
    assert second.heard[128] == first.heard[128]
    assert second.heard | first.heard == whole.heard


def test_a_long_trial_is_never_silent_for_long_and_loses_little(
    trial: Trial, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten steps are long here; a fiftieth of its images are a thousand times as many."""
    words: list[int] = []

    class Killed(Listener):
        def progress(self, images_seen: int) -> bool:
            words.append(images_seen)
            if len(words) == 5:
                raise KeyboardInterrupt
            return True

    class Told(Listener):
        def progress(self, images_seen: int) -> bool:
            words.append(images_seen)
            return len(words) < 5

    monkeypatch.setattr(training, "_TICK_S", 0.0)
    monkeypatch.setattr(training_trial, "_SAVES_EVERY", 2)
    for listener, saved in ((Killed(), 1280), (Told(), 1600)):
        words.clear()
        folder = tmp_path / type(listener).__name__
        folder.mkdir()
        with suppress(KeyboardInterrupt):
            run(Trial(0, trial.config, 0, (16_000_000,), folder, trial.cache), listener)
        assert words == [320, 640, 960, 1280, 1600]
        assert read_checkpoint(folder / CHECKPOINT)["images_seen"] == saved


def test_a_report_that_was_lost_comes_again_in_full(trial: Trial, tmp_path: Path) -> None:
    class Lost(Listener):
        def progress(self, images_seen: int) -> bool:
            if images_seen == 64 and (trial.folder / CHECKPOINT).exists():
                raise KeyboardInterrupt  # while its images are drawn
            return True

    trial.folder.mkdir()
    with pytest.raises(KeyboardInterrupt):
        run(trial, Lost())
    again, undisturbed = Listener(last=64), Listener(last=64)
    run(trial, again)
    (tmp_path / "other").mkdir()
    run(replace(trial, folder=tmp_path / "other"), undisturbed)
    assert again.heard == undisturbed.heard
    assert "train_loss" in again.heard[64]


def test_two_milestones_in_one_batch_are_both_reported_in_full(trial: Trial) -> None:
    trial.folder.mkdir()
    heard = Listener(last=31)
    run(replace(trial, milestones=(16, 31)), heard)
    assert heard.heard[31] == heard.heard[16] | {"images_seen": 31}
    assert "train_loss" in heard.heard[31]


def test_a_trial_says_what_its_images_and_their_scores_cost(trial: Trial) -> None:
    reports: list[dict[str, float]] = []

    class Keeper(Listener):
        def __call__(self, metrics: Mapping[str, float]) -> bool:
            reports.append(dict(metrics))
            return super().__call__(metrics)

    trial.folder.mkdir()
    run(trial, Keeper(last=128))
    assert [report["drawn_images"] for report in reports] == [32, 32]
    assert set(reports[-1]) == {"images_seen", *trial.config.reported()}
    assert [report["network_evaluations"] for report in reports] == [64, 64]
    for report in reports:
        parts = report["drawing_cpu_s"], report["judging_cpu_s"]
        assert min(*parts, report["drawing_s"], report["judging_s"]) > 0
        assert sum(parts) <= report["evaluation_cpu_s"]


def test_the_last_report_has_the_distances_band_over_the_samplers_noise(
    trial: Trial, tmp_path: Path
) -> None:
    judge = trial.config.judge.model_copy(update={"sampling_seeds": 3})
    config = trial.config.model_copy(update={"judge": judge})
    several = Trial(0, config, 0, MILESTONES, tmp_path / "several", trial.cache)
    one, band = Listener(), Listener()
    for each, listener in ((trial, one), (several, band)):
        each.folder.mkdir()
        run(each, listener)
    *before, last = MILESTONES
    assert [band.heard[milestone] for milestone in before] == [one.heard[m] for m in before]
    found, alone = dict(band.heard[last]), dict(one.heard[last])
    low, high = found.pop("fd_digits_low"), found.pop("fd_digits_high")
    assert low <= found["fd_digits"] <= high
    assert low < high
    for count in ("drawn_images", "network_evaluations"):
        assert found.pop(count) == 3 * alone.pop(count)
    assert found == alone
    scores = {"fd_digits_low", "fd_digits_high"}
    assert scores <= set(score_names(judge, "digits"))
    assert not scores & set(score_names(trial.config.judge, "digits"))


def test_a_trial_in_float16_says_how_many_steps_it_skipped(trial: Trial) -> None:
    halves = trial.config.training.model_copy(update={"precision": "float16"})
    config = trial.config.model_copy(update={"training": halves})
    trial.folder.mkdir()
    heard = Listener()
    run(Trial(0, config, 0, (64,), trial.folder, trial.cache), heard)
    assert heard.heard[64]["skipped_steps"] == 0
    assert "skipped_steps" in config.reported()
    assert "skipped_steps" not in trial.config.reported()


def test_fewer_workers_than_stages_are_refused_where_each_has_one() -> None:
    stages = {"kind": "multistage_unet", "boundaries": [0.1, 0.4], "stages_a_worker": "one"}
    config = trainer(denoiser=stages, training={"batch_size": 96})
    config.check(workers=3)
    for workers in (1, 2, 4):
        with pytest.raises(
            UserError, match=rf"must be a multiple of the 3 stages .* got {workers}"
        ):
            config.check(workers=workers)


def test_a_trial_leaves_a_picture_of_what_its_strategy_learned(
    trial: Trial, tmp_path: Path
) -> None:
    config = trial.config.model_copy(update={"strategy": strategy("vdm_adaptive")})
    learning = Trial(0, config, 0, MILESTONES, tmp_path / "learning", trial.cache)
    for one in (trial, learning):
        one.folder.mkdir()
        run(one, Listener())
        one.config.illustrate(one.folder)
    rows = read_rows(learning.folder / "strategy.jsonl")
    assert [row["images_seen"] for row in rows][-1] == 192
    assert all(np.mean(row["density"]) == pytest.approx(1, abs=1e-3) for row in rows)
    assert rows[0]["density"] != rows[-1]["density"]
    p, w = last_strategy(rows, 1000)
    assert p.sum() == pytest.approx(1)
    assert len(p) == len(w) == 1000
    assert (learning.folder / "pictures" / "density_over_training.png").exists()
    assert not (trial.folder / "strategy.jsonl").exists()
    assert not (trial.folder / "pictures" / "density_over_training.png").exists()


SHORT_OF_MEMORY = """
import resource, sys
from pathlib import Path
import psutil, torch
from stepsearch.errors import OutOfMemory
from stepsearch.search.trial import Trial
from trainers import trainer
from trainers.training_trial import run

torch.set_num_threads(1)
accumulation, folder = sys.argv[1], Path(sys.argv[2])
config = trainer(
    denoiser={"channels": [8, 16]},
    training={
        "batch_size": 2048, "warmup_steps": 2,
        "accumulation": int(accumulation) or None,
    },
    sampler={"num_steps": 2},
    judge={"samples": 32, "classifier": {"budget": 1000}},
)
config.prepare(folder)
trial = Trial(0, config, 0, (4096,), folder, folder)

class Report:
    def __call__(self, metrics): return True
    def progress(self, images_seen): return True

config.warm_up()
limit = psutil.Process().memory_info().vms + 250 * 2**20
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
try:
    run(trial, Report())
except OutOfMemory as error:
    print(f"{error}; again: {error.again}")
else:
    print("finished")
"""


@pytest.mark.slow
@pytest.mark.parametrize(("accumulation", "images"), [(0, [2048, 1024, 512, 256]), (1, [2048])])
def test_a_batch_that_does_not_fit_is_halved_if_the_file_allows(
    tmp_path: Path, accumulation: int, images: list[int]
) -> None:
    """Each attempt in a process of its own, as on a lane, with 250 MB to spare."""
    said = []
    for _ in images:
        command = [sys.executable, "-c", SHORT_OF_MEMORY, str(accumulation), str(tmp_path)]
        out = subprocess.run(command, capture_output=True, text=True, check=False)
        assert out.returncode == 0, out.stderr
        said.append(out.stdout.splitlines()[-1])
        if said[-1] == "finished":
            break
    failures = [line for line in said if line != "finished"]
    assert failures, "250 MB are too many"
    for line, number in zip(failures, images, strict=False):
        pattern = rf"out of memory: [0-9.]+ GiB with {number} images at a time; again: (.*)"
        match = re.fullmatch(pattern, line)
        assert match, line
        assert match[1] == str(accumulation == 0)
    assert (said[-1] == "finished") == (accumulation == 0)
