"""The judge on the real digits."""

from __future__ import annotations

import pytest
import torch

from stepsearch.config import parse
from stepsearch.errors import Diverged, UserError
from stepsearch.evaluation import ClassifierConfig, Judge, JudgeConfig
from stepsearch.evaluation.judge import pixel_features

KEYS = ["fd_digits", "kid_digits", "precision", "recall", "pixel_fd", "off_manifold"]
KEYS += ["density", "coverage", "fd_digits_se"]


@pytest.fixture
def samples(digits, generator):
    """A thousand real digits that stand for generated ones."""
    return digits.train[torch.randperm(len(digits.train), generator=generator)[:1000]]


def test_scores_are_plain_floats_under_their_names(judge, samples):
    scores = judge.score(samples)
    assert list(scores) == KEYS
    assert all(type(value) is float for value in scores.values())


def test_held_out_digits_set_the_floor(judge):
    floor = judge.reference()
    assert floor["fd_digits"] < 0.1
    assert abs(floor["kid_digits"]) < 0.02
    assert floor["precision"] > 0.75
    assert floor["recall"] > 0.85
    assert floor["pixel_fd"] < 0.6
    assert floor["off_manifold"] == pytest.approx(0.01, abs=0.005)
    assert floor["density"] > 0.75
    # Of 1438 real images each has room for 5 others: 359 cannot cover all of them.
    assert floor["coverage"] == pytest.approx(1 - (1438 / (1438 + 359)) ** 5, abs=0.05)
    assert 0 < floor["fd_digits_se"] < floor["fd_digits"]


def test_noise_is_far_from_the_floor_in_every_score(judge, generator):
    noise = judge.score(torch.rand(1000, 1, 8, 8, generator=generator) * 2 - 1)
    floor = judge.reference()
    assert noise["fd_digits"] > 100 * floor["fd_digits"]
    assert noise["kid_digits"] > 1.0
    assert noise["precision"] < 0.02
    assert noise["recall"] < 0.02
    assert noise["pixel_fd"] > 50 * floor["pixel_fd"]
    assert noise["off_manifold"] == 1.0
    assert noise["density"] < 0.01
    assert noise["coverage"] < 0.02


def test_every_score_worsens_with_added_noise(judge, samples, generator):
    noise = torch.randn(samples.shape, generator=generator)
    scores = [judge.score((samples + sd * noise).clamp(-1, 1)) for sd in (0.0, 0.2, 0.5, 0.8, 1.2)]
    for key, better_is in zip(KEYS, (-1, -1, 1, 1, -1, -1, 1, 1, -1), strict=True):
        values = [better_is * score[key] for score in scores]
        assert values == sorted(values, reverse=True), key
        assert values[0] > values[-1]


def test_the_order_of_the_samples_does_not_matter(judge, samples):
    assert judge.score(samples.flip(0)) == pytest.approx(judge.score(samples), rel=1e-8)


def test_scoring_twice_gives_the_same_numbers_and_touches_no_random_state(judge, samples):
    state = torch.get_rng_state()
    assert judge.score(samples) == judge.score(samples)
    assert judge.reference() == judge.reference()
    assert torch.equal(torch.get_rng_state(), state)


def test_judges_of_the_same_seed_agree_and_of_another_seed_do_not(digits, samples, tmp_path):
    def scores(folder: str, seed: int) -> dict[str, float]:
        quick = ClassifierConfig(width=4, budget=2_000, seed=seed)
        return digits.judge(tmp_path / folder, JudgeConfig(classifier=quick)).score(samples)

    assert scores("here", 0) == scores("there", 0)
    assert scores("here", 0)["fd_digits"] != scores("here", 1)["fd_digits"]


def test_the_references_images_are_no_more_than_the_samples(digits, tmp_path):
    config = JudgeConfig(samples=50, classifier=ClassifierConfig(width=4, budget=2_000))
    fewer = digits.judge(tmp_path, config)
    all_of_them = digits.judge(tmp_path, config.model_copy(update={"samples": 1000}))
    assert fewer.reference()["pixel_fd"] > 2 * all_of_them.reference()["pixel_fd"]


def test_scores_need_neither_float32_nor_a_detached_tensor(judge, samples):
    expected = judge.score(samples)
    assert judge.score(samples.double().requires_grad_()) == expected


# What the classifier's distance misses


def salted(images, count: int, share: float, generator):
    """`images` with that share of the first `count` images' pixels set to -1 or 1."""
    images = images.clone()
    salt = torch.where(torch.rand(images.shape, generator=generator) < 0.5, -1.0, 1.0)
    hit = torch.rand(images.shape, generator=generator) < share
    hit[count:] = False
    images[hit] = salt[hit]
    return images


def test_the_classifiers_distance_prefers_salted_digits_to_a_missing_class(
    judge, digits, generator
):
    dirty = judge.score(salted(digits.train[:999], 333, 0.15, generator))
    without_threes = judge.score(digits.train[digits.labels != 3])
    assert dirty["fd_digits"] < without_threes["fd_digits"]
    assert dirty["off_manifold"] > 0.2
    assert without_threes["off_manifold"] == 0.0


def test_static_that_the_features_do_not_see_is_caught_by_the_off_manifold_rate(
    judge, digits, generator
):
    clean, count = digits.train[:999], 333
    static = blind_static(judge, clean[:count], generator)
    dirty = torch.cat([clean[:count] + static, clean[count:]])
    scores, floor = judge.score(dirty), judge.reference()
    assert float(static.std()) > 0.3
    # A third of the samples is visibly noisy, and four scores say that all is as good as real ...
    assert scores["fd_digits"] < floor["fd_digits"]
    assert scores["kid_digits"] < 0.02
    assert scores["precision"] > floor["precision"]
    assert scores["recall"] > floor["recall"]
    # ... but the two that look at the pixels do not.
    assert scores["off_manifold"] > 15 * floor["off_manifold"]
    assert scores["pixel_fd"] > 2 * floor["pixel_fd"]


def blind_static(judge: Judge, images, generator):
    """Gaussian static, bent by 50 steps of Adam so that the features of `images` stay put."""
    body = judge.extractor.body
    wanted = body(images).detach()
    static = (0.6 * torch.randn(images.shape, generator=generator)).requires_grad_()
    optimizer = torch.optim.Adam([static], lr=0.05)
    for _ in range(50):
        (static.grad,) = torch.autograd.grad(
            (body(images + static) - wanted).square().sum(), static
        )
        optimizer.step()
    return static.detach()


# Bad input


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_pixel_that_is_not_finite_is_divergence(judge, samples, value):
    samples[[3, 700], 0, 4, 4] = value
    with pytest.raises(Diverged, match="2 of 1000 images have NaN or infinite pixels"):
        judge.score(samples)


def test_images_whose_features_overflow_are_divergence(judge, samples):
    with pytest.raises(Diverged, match="features overflow"):
        judge.score(samples * 3e38)


@pytest.mark.parametrize("shape", [(9, 1, 8, 9), (9, 3, 8, 8), (9, 8, 8), (9,), ()])
def test_images_of_another_shape_are_a_user_error(judge, shape):
    with pytest.raises(UserError, match=r"^images must be floating-point \[n, 1, 8, 8\], got"):
        judge.score(torch.zeros(shape))


def test_integer_images_are_a_user_error(judge):
    with pytest.raises(UserError, match=r"floating-point .* got torch\.uint8 \[9, 1, 8, 8\]"):
        judge.score(torch.zeros(9, 1, 8, 8, dtype=torch.uint8))


@pytest.mark.parametrize("n", [0, 1, 3])
def test_too_few_images_are_a_user_error(judge, samples, n):
    with pytest.raises(UserError, match=rf"images must be more than neighbours \(3\), got {n}"):
        judge.score(samples[:n])


@pytest.mark.parametrize("missing", ["labels", "held_out_labels"])
def test_a_data_set_without_labels_is_told_what_to_do(digits, tmp_path, missing):
    labels = {"labels": digits.labels, "held_out_labels": digits.held_out_labels, missing: None}
    with pytest.raises(UserError, match=r"'faces' has no labels.*one folder a class"):
        Judge.prepare(
            JudgeConfig(),
            name="faces",
            train=digits.train,
            held_out=digits.held_out,
            fingerprint="0123abcd",
            cache=tmp_path,
            **labels,
        )


def test_a_data_set_of_one_class_is_a_user_error(digits, tmp_path):
    with pytest.raises(UserError, match="'zeros' must have at least 2 classes"):
        Judge.prepare(
            JudgeConfig(),
            "zeros",
            digits.train,
            digits.held_out,
            torch.zeros_like(digits.labels),
            digits.held_out_labels,
            "0123abcd",
            tmp_path,
        )


@pytest.mark.parametrize(
    ("field", "value", "rule"),
    [
        ("samples", 1, "at least 2"),
        ("samples", 2.5, "an integer"),
        ("neighbours", 0, "at least 1"),
        ("coverage_neighbours", 0, "at least 1"),
        ("coverage_neighbours", "x", "an integer"),
        ("sampling_seeds", 0, "at least 1"),
        ("sampling_seeds", 33, "at most 32"),
        ("kid_subsets", 0, "at least 1"),
        ("kid_subset_size", 1, "at least 2"),
        ("off_manifold_quantile", 0.0, "greater than 0"),
        ("off_manifold_quantile", 1.0, "less than 1"),
        ("seed", -1, "at least 0"),
        ("classifier", 3, "a mapping"),
        ("inception", "x", "is not a known key"),
    ],
)
def test_a_wrong_field_is_named_with_its_rule(field, value, rule):
    with pytest.raises(UserError, match=rf"^judge\.{field} .*{rule}"):
        parse(JudgeConfig, {field: value}, "judge")


def test_neighbours_must_be_fewer_than_samples():
    with pytest.raises(UserError, match=r"samples must be more than neighbours \(30\), got 20"):
        parse(JudgeConfig, {"samples": 20, "neighbours": 30}, "judge")


# Pixel features


def test_digits_stay_exactly_as_they_are_in_pixel_space(digits):
    assert torch.equal(pixel_features(digits.train).float(), digits.train.flatten(1))


def test_larger_images_are_averaged_down_to_16_by_16(generator):
    images = torch.rand(2, 3, 64, 32, generator=generator)
    features = pixel_features(images).reshape(2, 3, 16, 16)
    areas = images.double().reshape(2, 3, 16, 4, 16, 2).mean((3, 5))
    torch.testing.assert_close(features, areas)
    assert pixel_features(torch.rand(2, 1, 28, 12)).shape == (2, 16 * 12)
