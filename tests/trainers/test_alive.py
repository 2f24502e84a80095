"""Signs of life while a trial is busy with one thing."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from stepsearch.search.trial import Trial
from tests.trainers.conftest import Listener
from trainers import alive, trainer
from trainers.training_trial import run


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alive, "_EVERY_S", 0.001)


def test_words_come_until_the_end_of_a_block_also_of_one_that_fails() -> None:
    words: list[float] = []

    def fail() -> None:
        with alive.alive(lambda: words.append(time.monotonic())):
            while len(words) < 3:
                time.sleep(0.001)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    said = len(words)
    time.sleep(0.02)
    assert len(words) == said
    assert "alive" not in [thread.name for thread in threading.enumerate()]


def test_nobody_who_listens_is_no_reason_to_stop() -> None:
    asked = threading.Event()

    def nobody() -> None:
        asked.set()
        raise ConnectionError

    with alive.alive(nobody):
        assert asked.wait(10)


def test_a_trial_says_that_it_lives_while_it_is_judged(tmp_path: Path) -> None:
    judged: list[int] = []

    class Keeper(Listener):
        def progress(self, images_seen: int) -> bool:
            if threading.current_thread().name == "alive":
                judged.append(images_seen)
            return True

    config = trainer(
        denoiser={"channels": [8, 16]},
        training={"batch_size": 32},
        sampler={"num_steps": 2},
        judge={"samples": 500, "classifier": {"budget": 1000}},
    )
    run(Trial(0, config, 0, (32,), tmp_path, tmp_path), Keeper())
    assert judged
    assert set(judged) == {32}
