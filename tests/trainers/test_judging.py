"""Trials on images without labels, judged by a network that was trained elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from stepsearch.errors import UserError
from stepsearch.evaluation import JudgeConfig
from stepsearch.evaluation.features.inception import VARIABLE
from stepsearch.search.trial import Trial
from tests.evaluation.networks import TinyConfig
from trainers import trainer
from trainers.training_trial import run

TINY = JudgeConfig(samples=32).model_copy(update={"features": TinyConfig()})


@pytest.fixture
def unlabelled(tmp_path: Path) -> dict[str, Any]:
    folder = tmp_path / "faces"
    folder.mkdir()
    random = np.random.default_rng(0)
    for i in range(40):
        Image.fromarray(random.integers(0, 256, (8, 8, 3), np.uint8)).save(folder / f"{i}.png")
    return {"kind": "images", "path": str(folder), "size": 8}


def small(**fields: Any) -> Any:
    return trainer(
        denoiser={"channels": [8, 16]},
        training={"batch_size": 32},
        sampler={"num_steps": 2},
        **fields,
    )


@pytest.fixture
def config(unlabelled: dict[str, Any]) -> Any:
    return small(dataset=unlabelled).model_copy(update={"judge": TINY})


class Listener:
    def __init__(self) -> None:
        self.heard: list[Mapping[str, float]] = []

    def __call__(self, metrics: Mapping[str, float]) -> bool:
        self.heard.append(metrics)
        return True

    def progress(self, images_seen: int) -> bool:
        return True


def test_a_trial_on_images_without_labels_is_judged(config: Any, tmp_path: Path) -> None:
    config.check(workers=1)
    assert config.objective() == "fd_tiny_faces"
    prepared = config.prepare(tmp_path / "cache")
    assert "judge_accuracy" not in prepared
    assert prepared["real_fd_tiny_faces"] > 0
    (tmp_path / "trial").mkdir()
    listener = Listener()
    run(Trial(0, config, 0, (32,), tmp_path / "trial", tmp_path / "cache"), listener)
    (metrics,) = listener.heard
    own = {"fd_tiny_faces", "kid_tiny_faces", "sfd_tiny", "score_tiny", "fd_tiny_faces_se"}
    assert own | {"density", "coverage", "off_manifold"} <= metrics.keys()
    assert "fd_faces" not in metrics
    assert len(metrics) <= 25, "keys of an MLflow run"


@pytest.mark.parametrize(
    ("held_out", "message"),
    [
        (0.05, r"more images held out than the judge counts neighbours \(3\), got 2$"),
        (0.9, r"more images to train on than the judge counts neighbours \(5\), got 4$"),
    ],
)
def test_too_few_images_to_be_neighbours_are_refused(
    unlabelled: dict[str, Any], held_out: float, message: str
) -> None:
    few = small(dataset={**unlabelled, "held_out": held_out})
    with pytest.raises(UserError, match=f"^dataset must have {message}"):
        few.model_copy(update={"judge": TINY}).check(workers=1)


def test_few_images_are_pointed_out_before_the_first_trial(
    config: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    few = config.judge.model_copy(update={"samples": 8})
    hasty = config.model_copy(update={"judge": few})
    assert hasty.objective() == "kid_tiny_faces"
    hasty.prepare(tmp_path)
    (record,) = caplog.records
    assert record.getMessage().startswith(
        "judge.samples should be more than the network's 8 features for a Frechet distance, got 8"
    )


def test_a_classifier_still_needs_labels(unlabelled: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"'faces' has no labels.*or take judge\.features of"):
        small(dataset=unlabelled).check(workers=1)


def test_missing_weights_are_found_before_anything_is_spent(
    unlabelled: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    inception = small(dataset=unlabelled, judge={"features": {"kind": "inception"}})
    with pytest.raises(UserError, match=r"^judge\.features\.weights must name"):
        inception.check(workers=1)
    monkeypatch.setenv(VARIABLE, str(tmp_path / "inception.pth"))
    with pytest.raises(UserError, match=r"^judge\.features\.weights must be .*No such file"):
        inception.check(workers=1)
    assert inception.resolved().judge.features.weights == tmp_path / "inception.pth"


def test_the_probe_measures_a_network(config: Any) -> None:
    cost = config.probe(gpu=False)
    assert cost.evaluation_s > 0
    assert cost.prepare_s > 0


def test_a_tuned_sampler_is_judged_by_the_same_network(
    unlabelled: dict[str, Any], tmp_path: Path
) -> None:
    checkpoint = {"kind": "folder", "path": str(tmp_path)}
    made = trainer("timetuner", checkpoint=checkpoint, dataset=unlabelled, score="frechet")
    assert made.judges is False
    made = made.model_copy(update={"judge": TINY})
    assert made.judges is True
    assert made.objective() == "fd_tiny_faces_ratio"
    assert made.guards() == {"off_manifold_excess": 0.02}
