"""The network of the reference FID, without its weights: names, shapes, numbers, and mistakes."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch
from torch import nn

from stepsearch.config import parse
from stepsearch.errors import UserError
from stepsearch.evaluation import JudgeConfig
from stepsearch.evaluation.features import inception
from stepsearch.evaluation.features.inception import PUBLISHED, VARIABLE, InceptionConfig
from stepsearch.evaluation.features.inception_v3 import InceptionV3, resized
from stepsearch.evaluation.features.weights import fill


@pytest.fixture(scope="module")
def network() -> InceptionV3:
    """With weights, means and variances that no layer can hide: drawn by their place and name."""
    with torch.device("meta"):
        network = InceptionV3()
    state = {}
    generator = torch.Generator().manual_seed(0)
    for name, tensor in network.state_dict().items():
        drawn = torch.randn(tensor.shape, generator=generator)
        if name.endswith("num_batches_tracked"):
            continue
        if name.endswith(("running_var", "bn.weight")):
            state[name] = 1 + 0.2 * drawn.tanh()
        elif tensor.ndim > 1:
            state[name] = drawn * (2 / tensor[0].numel()) ** 0.5
        else:
            state[name] = 0.2 * drawn
    filled = fill(network.to_empty(device="cpu"), state, "weights")
    assert isinstance(filled, InceptionV3)
    return filled


@pytest.fixture
def pixels(generator):
    return torch.randint(0, 256, (2, 3, 32, 40), generator=generator).float()


def test_names_and_shapes_are_those_of_the_published_weights():
    """The table of torch-fidelity 0.4's FeatureExtractorInceptionV3, in its order."""
    with torch.device("meta"):
        state = InceptionV3().state_dict()
    table = "\n".join(f"{name} {list(tensor.shape)}" for name, tensor in state.items())
    assert len(state) == 566
    assert hashlib.sha256(table.encode()).hexdigest() == (
        "8ca497103391675d239b6cbe936a080934f935dfd57b70343674200035f2c5e8"
    )


GOLDEN = [
    [1.456748, 0.04286931, 0.4505826, 0.7288207, 0.9600634],
    [1.038237, 1.075875, 2.040151, 0.1995799, 0.5355103],
    [-2.442902, 1.174388, 2.315582, -0.007947455, 1.646288],
]
"""The first three numbers of the first image, the mean and the deviation of all."""


def test_what_it_sees_is_what_torch_fidelity_sees(network, pixels):
    """Recorded with these weights in torch-fidelity 0.4's network, whose numbers are the same."""
    seen = network(pixels)
    assert [list(part.shape) for part in seen] == [[2, 2048], [2, 2023], [2, 1008]]
    for part, numbers in zip(seen, GOLDEN, strict=True):
        found = [*part[0, :3].tolist(), float(part.mean()), float(part.std())]
        assert found == pytest.approx(numbers, rel=1e-4)


def test_every_pool_and_the_last_block_are_those_of_the_graph_of_2015(network, pixels):
    seen = network(pixels).features
    network.Mixed_7c.max_pool = False
    try:
        assert not torch.allclose(network(pixels).features, seen)
    finally:
        network.Mixed_7c.max_pool = True


def test_images_are_resized_as_tensorflow_1_did():
    image = torch.tensor([[0.0, 10.0], [20.0, 30.0]])[None, None]
    # Place i of 4 takes from i / 2, and there is nothing beyond the last pixel.
    row = torch.tensor([0.0, 5.0, 10.0, 10.0])
    expected = torch.stack([row, row + 10, row + 20, row + 20])
    assert torch.equal(resized(image, 4)[0, 0], expected)
    assert torch.equal(resized(image, 2), image)
    larger = torch.arange(16.0).reshape(1, 1, 4, 4)
    assert torch.equal(resized(larger, 2)[0, 0], larger[0, 0, ::2, ::2])


def test_the_inception_score_has_no_bias(network, pixels):
    seen = network(pixels)
    assert torch.equal(seen.logits, seen.features @ network.fc.weight.T)
    assert not torch.allclose(seen.logits, network.fc(seen.features))


# Weights


def test_without_weights_one_line_says_where_they_come_from(monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    with pytest.raises(UserError) as caught:
        InceptionConfig().check()
    line = str(caught.value)
    assert line.startswith(
        "judge.features.weights must name weights-inception-2015-12-05-6726825d"
    )
    assert "https://github.com/toshas/torch-fidelity/releases/tag/v0.2.0" in line
    assert line.endswith(f"set it or {VARIABLE}")
    with pytest.raises(UserError, match="must name"):
        InceptionConfig().resolved()


def test_the_variable_is_looked_up_and_written_out(monkeypatch, tmp_path):
    monkeypatch.setenv(VARIABLE, str(tmp_path / "a.pth"))
    assert InceptionConfig().resolved().weights == tmp_path / "a.pth"
    given = JudgeConfig(features={"kind": "inception", "weights": tmp_path / "b.pth"})
    assert given.resolved().features == given.features
    assert JudgeConfig().resolved() == JudgeConfig()


@pytest.mark.parametrize("content", [b"", b"not weights", None], ids=["empty", "text", "missing"])
def test_another_file_is_refused_in_one_line(content, tmp_path):
    file = tmp_path / "inception.pth"
    if content is not None:
        file.write_bytes(content)
    config = InceptionConfig(weights=file)
    reason = "No such file" if content is None else r"another file \([0-9a-f]{8}\.\.\.\)"
    for use in (config.check, config.load):
        with pytest.raises(UserError, match=rf"^judge\.features\.weights must be .*{reason}"):
            use()


def test_a_folder_and_a_file_without_end_are_refused(tmp_path):
    with pytest.raises(UserError, match="Is a directory"):
        InceptionConfig(weights=tmp_path).check()
    with pytest.raises(UserError, match="another file"):
        InceptionConfig(weights="/dev/zero").check()


def saved(network: nn.Module, file: Path, monkeypatch: pytest.MonkeyPatch) -> InceptionConfig:
    """The weights of a network in a file that stands for the published one."""
    torch.save(network.state_dict(), file)
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    monkeypatch.setattr(inception, "PUBLISHED", PUBLISHED._replace(sha256=sha256))
    return InceptionConfig(weights=file)


def test_the_file_holds_the_weights(network, pixels, tmp_path, monkeypatch):
    config = saved(network, tmp_path / "inception.pth", monkeypatch)
    config.check()
    loaded = config.load()
    assert not loaded.training
    assert not any(weights.requires_grad for weights in loaded.parameters())
    assert all(map(torch.equal, loaded(pixels), network(pixels)))


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda s: s.pop("fc.bias"), r"whose fc\.bias is \[1008\], got none"),
        (
            lambda s: s.update({"fc.bias": torch.zeros(1000)}),
            r"fc\.bias is \[1008\], got \[1000\]",
        ),
        (lambda s: s.update({"AuxLogits.fc.bias": torch.zeros(9)}), r"no AuxLogits\.fc\.bias"),
    ],
    ids=["missing", "shape", "too many"],
)
def test_weights_of_another_network_are_refused(change, line, network):
    state = dict(network.state_dict())
    change(state)
    with pytest.raises(UserError, match=rf"^FIELD must be weights of InceptionV3, .*{line}$"):
        fill(network, state, "FIELD")


def test_published_bytes_that_hold_code_are_refused(tmp_path, monkeypatch):
    import pickle

    class Touch:
        def __reduce__(self):
            return Path.touch, (tmp_path / "ran",)

    file = tmp_path / "inception.pth"
    file.write_bytes(pickle.dumps(Touch()))
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    monkeypatch.setattr(inception, "PUBLISHED", PUBLISHED._replace(sha256=sha256))
    with pytest.raises(UserError, match=r"^judge\.features\.weights is unreadable"):
        InceptionConfig(weights=file).load()
    assert not (tmp_path / "ran").exists()


def test_the_scores_of_papers_have_the_names_of_papers():
    config = InceptionConfig()
    assert config.names("faces") == ("fid", "kid_inception", "sfid", "is")
    assert config.objective("faces", samples=2048) == "kid_inception"
    assert config.objective("faces", samples=2049) == "fid"


@pytest.mark.parametrize(
    ("data", "line"),
    [
        ({"kind": "vgg"}, "judge.features.kind must be one of 'classifier', 'inception', "
         "'dinov2', 'efficientnet_lite0', got 'vgg'"),
        ({"weights": "a.pth"}, "judge.features.kind is required"),
        ("inception", "judge.features must be a mapping, got 'inception'"),
        ({"kind": "inception", "weights": 3}, "judge.features.weights must be a path, got 3"),
        ({"kind": "inception", "reference": 3}, "judge.features.reference must be a path, got 3"),
        ({"kind": "classifier", "weights": "a.pth"}, "judge.features.weights is not a known key"),
        ({"kind": "efficientnet_lite0", "weights": "a"},
         "judge.features.weights is not a known key"),
    ],
)  # fmt: skip
def test_a_wrong_field_is_named_with_its_rule(data, line):
    with pytest.raises(UserError) as caught:
        parse(JudgeConfig, {"features": data}, "judge")
    assert str(caught.value).startswith(line)


def test_settings_of_a_classifier_that_is_not_there_are_refused():
    data = {"features": {"kind": "inception"}, "classifier": {"budget": 1000}}
    with pytest.raises(UserError) as caught:
        parse(JudgeConfig, data, "judge")
    assert str(caught.value) == (
        "judge.classifier must be left out unless features.kind is classifier, "
        "got features.kind 'inception'"
    )
