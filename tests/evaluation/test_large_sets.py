"""Data sets that do not fit as floats, or whose pairs are too many: bytes, and a part of them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from stepsearch.evaluation import ClassifierConfig, Judge, JudgeConfig, statistics
from stepsearch.evaluation.features import base
from stepsearch.evaluation.judge import pixel_features
from stepsearch.pixels import scaled

CONFIG = JudgeConfig(samples=100, classifier=ClassifierConfig(width=4, features=8, budget=2000))


def judge_of(images: torch.Tensor, cache: Path) -> Judge:
    labels = torch.arange(len(images)) % 2
    parts = images[:240], images[240:], labels[:240], labels[240:]
    return Judge.prepare(CONFIG, "two", *parts, "content", cache)


@pytest.fixture
def images(generator) -> torch.Tensor:
    """Dark and light ones, uint8."""
    noise = torch.randint(0, 100, (300, 3, 8, 8), generator=generator)
    return (noise + 100 * (torch.arange(300) % 2).view(-1, 1, 1, 1)).to(torch.uint8)


def test_bytes_are_judged_as_the_numbers_that_they_stand_for(images, tmp_path):
    as_bytes = judge_of(images, tmp_path / "bytes")
    as_floats = judge_of(scaled(images), tmp_path / "floats")
    assert as_bytes.reference() == as_floats.reference()
    assert as_bytes.score(scaled(images[:100])) == as_floats.score(scaled(images[:100]))


def test_neighbours_are_looked_for_in_a_part_of_a_large_set(images, tmp_path, monkeypatch):
    whole = judge_of(images, tmp_path)
    monkeypatch.setattr(base, "KEPT", 60)
    part = judge_of(images, tmp_path)
    assert len(part.real.features) == len(part.manifold.train) == 60
    assert torch.equal(part.real.features, whole.real.features[::4])
    assert torch.equal(part.real.statistics.cov, whole.real.statistics.cov)
    expected = statistics(pixel_features(images[:240:4]))
    assert torch.equal(part.pixel_statistics.cov, expected.cov), "all would be hours, gigabytes"
    some = scaled(images[:50])
    assert part.score(some)["fd_two"] == whole.score(some)["fd_two"]
    assert part.score(some)["off_manifold"] <= 0.1


def test_averages_of_bytes_are_those_of_the_numbers(images):
    assert torch.equal(pixel_features(images), pixel_features(scaled(images)))
