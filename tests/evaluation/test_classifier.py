"""The judge's classifier: accurate, reproducible, for any image size."""

from __future__ import annotations

import pytest
import torch

from stepsearch.config import parse
from stepsearch.errors import UserError
from stepsearch.evaluation import ClassifierConfig
from stepsearch.evaluation.classifier import build_classifier, train_classifier

QUICK = ClassifierConfig(width=4, budget=2_000)


def test_the_classifier_knows_at_least_98_percent_of_the_held_out_digits(judge, digits):
    assert judge.accuracy >= 0.98
    accuracy = judge.extractor.accuracy(digits.held_out, digits.held_out_labels)
    assert accuracy == judge.accuracy


def test_features_are_48_non_negative_activations_of_unit_mean_square(judge, digits):
    features = judge.extractor.features(digits.train)
    assert features.shape == (len(digits.train), 48)
    assert features.dtype == torch.float64
    assert features.min() == 0
    assert float(features.square().mean()) == pytest.approx(1.0, rel=1e-5)
    assert not features.requires_grad


def test_training_depends_neither_on_global_random_state_nor_on_threads(digits):
    first = train_classifier(QUICK, digits.train, digits.labels).state_dict()
    torch.manual_seed(99)
    state = torch.get_rng_state()
    torch.set_num_threads(2)
    try:
        second = train_classifier(QUICK, digits.train, digits.labels).state_dict()
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_another_seed_gives_another_classifier(digits):
    weights = [
        train_classifier(
            QUICK.model_copy(update={"seed": seed}), digits.train, digits.labels
        ).head.weight
        for seed in (0, 1)
    ]
    assert not torch.equal(*weights)


def test_features_of_an_image_do_not_depend_on_its_batch(judge, digits):
    """But for float32's rounding: other sizes of a batch have other kernels on some processors."""
    few, many = (judge.extractor.features(digits.train[first:600]) for first in (595, 0))
    torch.testing.assert_close(few.float(), many[595:].float())


@pytest.mark.parametrize("shape", [(1, 4, 4), (1, 28, 28), (3, 20, 31), (3, 64, 64)])
def test_images_of_any_size_train_and_give_features(shape, generator):
    images = torch.rand(12, *shape, generator=generator) * 2 - 1
    labels = torch.arange(12) % 3
    config = ClassifierConfig(width=4, features=5, batch_size=8, budget=24)
    classifier = train_classifier(config, images, labels)
    assert classifier.features(images).shape == (12, 5)
    assert classifier(images).shape == (12, 3)


def test_building_the_classifier_leaves_the_global_random_state_alone(digits):
    state = torch.get_rng_state()
    build_classifier(QUICK, digits.train, digits.labels)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("field", "value", "rule"),
    [
        ("width", 0, "at least 1"),
        ("width", 1000, "at most 256"),
        ("features", 0, "at least 1"),
        ("features", 5000, "at most 2048"),
        ("budget", 0, "at least 1"),
        ("batch_size", 1, "at least 2"),
        ("lr", 0.0, "greater than 0"),
        ("lr", float("nan"), "a finite number"),
        ("weight_decay", -1.0, "at least 0"),
        ("seed", -1, "at least 0"),
        ("depth", 3, "is not a known key"),
    ],
)
def test_a_wrong_field_is_named_with_its_rule(field, value, rule):
    with pytest.raises(UserError, match=rf"^judge\.classifier\.{field} .*{rule}"):
        parse(ClassifierConfig, {field: value}, "judge.classifier")
