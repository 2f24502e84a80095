"""One trial in this process: where it goes on when it is started again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from stepsearch.search.trial import Trial
from trainers import trainer
from trainers.denoising import CHECKPOINT, run

MILESTONES = (64, 128, 192)
OF_THE_CLOCK = ("train_cpu_s", "evaluation_cpu_s", "images_per_s")


class Listener:
    """Lets a trial go on until it has reported `last`; keeps what was reported."""

    def __init__(self, last: int = MILESTONES[-1]) -> None:
        self.last = last
        self.heard: dict[int, dict[str, float]] = {}

    def __call__(self, metrics: Mapping[str, float]) -> bool:
        images_seen = int(metrics["images_seen"])
        self.heard[images_seen] = {k: v for k, v in metrics.items() if k not in OF_THE_CLOCK}
        return images_seen < self.last

    def progress(self, images_seen: int) -> bool:
        return True


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
