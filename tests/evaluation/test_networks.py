"""What a network trained elsewhere sees, batch by batch, and the judge that goes by it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from stepsearch.errors import Diverged, UserError
from stepsearch.evaluation import FEATURES, Judge, JudgeConfig, inception_score, statistics
from stepsearch.evaluation.features import base
from stepsearch.evaluation.features.base import kept_rows
from stepsearch.evaluation.features.network import Network, pixels
from stepsearch.evaluation.judge_config import score_names
from stepsearch.evaluation.real import load_or_observe, real_file
from tests.evaluation.networks import TinyConfig

CPU = torch.device("cpu")
TINY = JudgeConfig().model_copy(update={"features": TinyConfig()})


@pytest.fixture(scope="module")
def judge(digits, tmp_path_factory) -> Judge:
    """A judge of digits that has seen no label."""
    return Judge.prepare(
        TINY,
        "digits",
        digits.train,
        digits.held_out,
        None,
        None,
        "0123abcd",
        tmp_path_factory.mktemp("cache"),
    )


def test_images_become_pixels_of_a_file_in_rgb():
    values = torch.tensor([-1.5, -1.0, -0.001, 0.0, 0.5, 1.0, 3.0])
    found = pixels(values.reshape(7, 1, 1, 1).expand(7, 1, 2, 2))
    assert found.shape == (7, 3, 2, 2)
    assert found[:, :, 0, 0].tolist() == [[x] * 3 for x in (0, 0, 127, 128, 191, 255, 255)]
    colours = torch.arange(256).float().div(127.5).sub(1).reshape(-1, 1, 1, 1).expand(-1, 3, 1, 1)
    assert torch.equal(pixels(colours)[:, 0, 0, 0], torch.arange(256).float())


@pytest.mark.parametrize("channels", [2, 4])
def test_images_that_are_no_pictures_are_refused(channels):
    with pytest.raises(UserError, match=rf"^dataset must have images of 1 or 3 .* got {channels}"):
        pixels(torch.zeros(2, channels, 8, 8))


def test_batches_add_up_to_what_is_seen_at_once(digits):
    network = TinyConfig().load()
    seen = network(pixels(digits.train))
    found = Network(network).observe(digits.train, CPU)
    assert max(map(len, network.seen[1:])) == 64
    torch.testing.assert_close(found.features, seen.features)
    torch.testing.assert_close(found.logits, seen.logits)
    for part, expected in ((found.statistics, seen.features), (found.spatial, seen.spatial)):
        torch.testing.assert_close(part, statistics(expected), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("n", "rows"), [(3, [0, 1, 2]), (5, [0, 1, 2, 3, 4]), (12, [0, 2, 4, 7, 9])]
)
def test_of_many_images_the_features_of_some_are_kept_from_all_over(n, rows, monkeypatch):
    monkeypatch.setattr(base, "KEPT", 5)
    assert kept_rows(n).tolist() == rows


def test_the_statistics_are_those_of_all_images_however_few_are_kept(digits, monkeypatch):
    everything = Network(TinyConfig().load()).observe(digits.train, CPU)
    monkeypatch.setattr(base, "KEPT", 100)
    some = Network(TinyConfig().load()).observe(digits.train, CPU)
    assert torch.equal(some.features, everything.features[kept_rows(len(digits.train))])
    assert all(map(torch.equal, some.statistics, everything.statistics))
    assert len(some.logits) == len(digits.train)


def test_scores_have_names_of_their_own(judge, digits):
    scores = judge.score(digits.train[:500])
    assert tuple(scores) == score_names(TINY, "digits")
    assert {"fd_tiny_digits", "fd_tiny_digits_se", "sfd_tiny", "score_tiny"} <= scores.keys()
    assert not any(name.startswith(("fd_digits", "fid")) for name in scores)
    assert judge.accuracy is None


def test_scores_are_made_of_what_the_network_sees(judge, digits):
    images = digits.train[:500]
    seen = TinyConfig().load()(pixels(images))
    scores = judge.score(images)
    assert scores["score_tiny"] == pytest.approx(inception_score(seen.logits), rel=1e-5)
    assert scores["precision"] == 1.0
    assert scores["sfd_tiny"] < judge.score(digits.train[:50])["sfd_tiny"]
    noise = judge.score(torch.rand(500, 1, 8, 8) * 2 - 1)
    assert noise["fd_tiny_digits"] > 10 * scores["fd_tiny_digits"]
    assert noise["sfd_tiny"] > 10 * scores["sfd_tiny"]


def test_nan_is_divergence_and_images_far_outside_are_clipped(judge, digits):
    images = digits.train[:50].clone()
    assert judge.score(images * 1e30)["off_manifold"] == 1.0
    images[3] = float("nan")
    with pytest.raises(Diverged, match="1 of 50 images"):
        judge.score(images)


def test_no_two_kinds_of_features_share_a_score_of_their_own():
    papers = {"inception", "dinov2"}  # theirs are the same on every data set
    names = [
        config().names(data)
        for kind, config in FEATURES.items()
        for data in (("digits",) if kind in papers else ("digits", "faces"))
    ]
    own = [name for each in names for name in each if name]
    assert len(set(own)) == len(own)
    assert all(FEATURES[kind]().names("faces") in names for kind in papers)


def test_too_few_images_for_a_covariance_make_the_kernel_distance_the_objective():
    tiny = TinyConfig()
    assert tiny.objective("digits", samples=9) == "fd_tiny_digits"
    assert tiny.objective("digits", samples=8) == "kid_tiny_digits"
    assert FEATURES["classifier"]().objective("digits", samples=8) == "fd_digits"


# What is seen in the training images is kept


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return real_file("tiny-0", "0123abcd", tmp_path)


@pytest.fixture
def observe(digits, file):
    return lambda: load_or_observe(Network(TinyConfig().load()), digits.train, CPU, file)


def test_the_training_images_are_looked_at_once(observe, file, caplog):
    first = observe()
    os.utime(file, ns=(1, 1))
    second = observe()
    assert file.stat().st_mtime_ns == 1
    assert torch.equal(first.features, second.features)
    assert all(map(torch.equal, first.statistics, second.statistics))
    assert all(map(torch.equal, first.spatial, second.spatial))
    assert not caplog.records


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


def change(name: str, shape: tuple[int, ...], value: float = 0.0):
    def damage(file: Path) -> None:
        save_file(load_file(file) | {name: torch.full(shape, value)}, file)

    return damage


def drop(name: str):
    def damage(file: Path) -> None:
        tensors = load_file(file)
        del tensors[name]
        save_file(tensors, file)

    return damage


@pytest.mark.parametrize(
    "damage",
    [
        truncate,
        drop("mean"),
        drop("spatial_cov"),
        change("features", (7, 8)),
        change("features", (1437, 8), float("nan")),
        change("mean", (9,)),
        change("cov", (8, 9)),
    ],
)
def test_a_damaged_file_is_reported_and_replaced(damage, observe, file, caplog):
    first = observe()
    damage(file)
    assert torch.equal(observe().features, first.features)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "are unusable and made anew" in caplog.text
