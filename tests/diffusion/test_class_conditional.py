"""A denoiser that is told classes: each image its own, and some images none."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from stepsearch.diffusion.checkpoints import read_checkpoint
from stepsearch.diffusion.datasets import DigitsConfig
from stepsearch.diffusion.denoisers import DiTConfig, UNetConfig
from stepsearch.diffusion.labels import drop, null_class
from stepsearch.diffusion.noise import VPConfig
from stepsearch.diffusion.step import errors
from stepsearch.diffusion.training import Training
from stepsearch.errors import UserError
from stepsearch.strategies import strategy
from tests.diffusion.test_data_parallel import two_workers

Build = Callable[..., Training]

CLASSES = {"classes": 10, "label_dropout": 0.3}


def weights(network: torch.nn.Module) -> Tensor:
    return torch.nn.utils.parameters_to_vector(network.parameters()).detach().clone()


def looked_at(training: Training) -> list[int]:
    """The labels that the denoiser is told while it trains."""
    seen: list[int] = []
    training.denoiser.get_submodule("class_embedding").register_forward_pre_hook(
        lambda _module, inputs: seen.extend(inputs[0].tolist())
    )
    return seen


# --- labels and the null class ------------------------------------------------------------------


@pytest.mark.parametrize("config", [UNetConfig(channels=(8, 16)), DiTConfig(layers=1)])
def test_the_null_class_is_the_last_one(config: UNetConfig | DiTConfig) -> None:
    with_classes = config.model_copy(update={"class_conditional": True})
    data, process = DigitsConfig().load(), VPConfig().build()
    network = with_classes.build_for(data, process, seed=0)
    assert with_classes.classes(data) == null_class(network) == 10
    assert null_class(config.build_for(data, process, seed=0)) is None
    x, t = torch.zeros(2, 1, 8, 8), torch.tensor([0, 999])
    assert network(x, t, class_labels=torch.tensor([0, 10])).sample.shape == x.shape
    with pytest.raises(IndexError):
        network(x, t, class_labels=torch.tensor([0, 11]))


def test_classes_need_labels() -> None:
    bare = replace(DigitsConfig().load(), train_labels=None)
    assert UNetConfig().classes(bare) == bare.classes == 0
    assert bare.class_shares is None
    with pytest.raises(UserError) as caught:
        DiTConfig(class_conditional=True).classes(bare)
    assert str(caught.value) == (
        "denoiser.class_conditional must be false for images without labels, as 'digits', got true"
    )


def test_the_share_of_labels_that_is_asked_for_is_dropped() -> None:
    labels = torch.arange(10).repeat(1000)
    told = drop(labels, 0.2, 10, torch.Generator().manual_seed(0))
    assert told is not None
    dropped = told == 10
    assert dropped.float().mean().item() == pytest.approx(0.2, abs=0.02)
    assert torch.equal(told[~dropped], labels[~dropped])
    assert drop(labels, 0.0, 10, torch.Generator()) is labels
    assert drop(None, 0.2, 10, torch.Generator()) is None


# --- training -----------------------------------------------------------------------------------


def test_every_image_is_told_with_its_own_class(build_training: Build) -> None:
    training, data = build_training(classes=10), DigitsConfig().load()
    step = training._draw()
    assert data.train_labels is not None
    for image, label in zip(step.x0, step.labels, strict=True):
        (number,) = (data.train[:100] == image).flatten(1).all(1).nonzero()
        assert data.train_labels[number] == label
    seen = looked_at(training)
    training.run(8)
    assert seen == step.labels.tolist()


def test_the_null_class_is_told_instead_of_some_labels(build_training: Build) -> None:
    training, plain = build_training(**CLASSES), build_training(classes=10)
    told, labels = looked_at(training), looked_at(plain)
    for one in (training, plain):
        one.run(480)
    kept = [(a, b) for a, b in zip(told, labels, strict=True) if a != 10]
    assert all(a == b for a, b in kept)
    assert 0.6 < len(kept) / len(told) < 0.8


def test_a_denoiser_without_classes_is_trained_as_without_labels(build_training: Build) -> None:
    """The script gives labels to all; here they are left out."""
    training, bare = build_training(), build_training()
    bare._batches._labels = None
    assert training._batches._labels is None
    for one in (training, bare):
        one.run(80)
    assert torch.equal(weights(training.ema), weights(bare.ema))
    with pytest.raises(UserError) as caught:
        build_training(label_dropout=0.1)
    assert str(caught.value) == (
        "training.label_dropout must be 0 for a denoiser without classes, got 0.1"
    )


@pytest.mark.parametrize("kind", ["uniform", "adaptive"])
def test_a_resumed_training_drops_the_same_labels(
    kind: str, build_training: Build, tmp_path: Path
) -> None:
    often = {"every": 2, "grid": 20} if kind == "adaptive" else {}
    abar = VPConfig().build().alpha_bar

    def build() -> Training:
        return build_training(timesteps=strategy(kind, **often).build(abar), **CLASSES)

    whole, half, resumed = build(), build(), build()
    half.run(96)
    half.save(tmp_path / "half")
    resumed.load(tmp_path / "half")
    for training in (whole, resumed):
        training.run(176)
    assert torch.equal(weights(whole.ema), weights(resumed.ema))


@pytest.mark.parametrize("slices", [2, 3])
def test_slices_of_a_batch_keep_their_labels(build_training: Build, slices: int) -> None:
    whole, sliced = build_training(**CLASSES), build_training(slices=slices, **CLASSES)
    for training in (whole, sliced):
        training.run(80)
    torch.testing.assert_close(
        weights(sliced.denoiser), weights(whole.denoiser), rtol=1e-4, atol=1e-5
    )


@pytest.mark.slow
def test_two_workers_tell_the_labels_that_one_tells(
    build_training: Build,
    start_training: Callable[..., subprocess.Popen[str]],
    tmp_path: Path,
) -> None:
    alone = build_training(**CLASSES)
    losses = [alone.run(8 * step).mean_loss for step in range(1, 11)]
    outputs = two_workers(start_training, tmp_path, steps=10, **CLASSES)
    torch.testing.assert_close(json.loads(outputs[0]), losses, rtol=1e-4, atol=1e-6)
    found = read_checkpoint(tmp_path / "1")["denoiser"]
    for name, expected in alone.state_dict()["denoiser"].items():
        torch.testing.assert_close(found[name], expected, rtol=1e-4, atol=1e-5)


# --- who looks at losses ------------------------------------------------------------------------


def test_strategies_look_at_images_with_their_own_labels(build_training: Build) -> None:
    training = build_training(**CLASSES)
    training.run(40)
    step = training._draw()
    rows, t = torch.tensor([3, 3, 0, 7, 1]), torch.tensor([10, 300, 500, 700, 999])
    noise = torch.randn(5, 1, 8, 8, generator=torch.Generator().manual_seed(0))

    def error(row: int, label: Tensor | None) -> Tensor:
        part = slice(row, row + 1)
        image, level = step.x0[rows[part]], t[part]
        with torch.no_grad():
            return errors(
                training.denoiser.eval(),
                training.process,
                "epsilon",
                image,
                noise[part],
                level,
                labels=label,
            )

    own = torch.cat([error(i, step.labels[rows[[i]]]) for i in range(5)])
    torch.testing.assert_close(step.evaluate(rows, t, noise), own, rtol=1e-4, atol=1e-6)
    others = torch.cat([error(i, (step.labels[rows[[i]]] + 1) % 10) for i in range(5)])
    assert not torch.allclose(others, own, rtol=1e-3)
    halves = [step.gradient(rows[part], t[part], noise[part]) for part in ([0, 1], [2, 3])]
    both = step.gradient(rows[:4], t[:4], noise[:4])
    torch.testing.assert_close(both, (halves[0] + halves[1]) / 2, rtol=1e-4, atol=1e-6)


def test_the_gradients_noise_is_measured_with_labels(build_training: Build) -> None:
    training = build_training(**CLASSES)
    training.run(40)
    seen = looked_at(training)
    first = training.gradient_noise(8)
    assert set(seen) <= set(range(11))
    assert 10 in seen
    assert (training.gradient_noise(8).norm == first.norm).all()
