"""The network of FD_DINOv2, without its weights: names, shapes, numbers, and mistakes."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional

from stepsearch.config import parse
from stepsearch.errors import UserError
from stepsearch.evaluation import JudgeConfig
from stepsearch.evaluation.features import DinoV2Config, dinov2
from stepsearch.evaluation.features.dinov2 import PUBLISHED, VARIABLE
from stepsearch.evaluation.features.dinov2_vit import GRID, SIZES, DinoV2, Size
from stepsearch.evaluation.features.weights import fill

TINY = Size(width=48, depth=3, heads=3)


@pytest.fixture(scope="module")
def network() -> DinoV2:
    """A small one, with weights that no layer can hide, drawn by their place."""
    built = DinoV2(TINY)
    generator = torch.Generator().manual_seed(0)
    state = {
        name: torch.randn(tensor.shape, generator=generator) * 0.2
        for name, tensor in built.state_dict().items()
    }
    filled = fill(built, state, "weights")
    assert isinstance(filled, DinoV2)
    return filled


@pytest.fixture
def pixels(generator) -> Tensor:
    return torch.randint(0, 256, (2, 3, 32, 40), generator=generator).float()


PUBLISHED_SIZES = {  # tensors, parameters, bytes of the file
    "vits14": (175, 22_056_576, 88_283_115),
    "vitb14": (175, 86_580_480, 346_378_731),
    "vitl14": (343, 304_368_640, 1_217_586_395),
}
BLOCK = """norm1.weight norm1.bias attn.qkv.weight attn.qkv.bias attn.proj.weight attn.proj.bias
    ls1.gamma norm2.weight norm2.bias mlp.fc1.weight mlp.fc1.bias mlp.fc2.weight mlp.fc2.bias
    ls2.gamma"""


@pytest.mark.parametrize("name", SIZES)
def test_names_and_sizes_are_those_of_the_published_weights(name):
    with torch.device("meta"):
        state = DinoV2(SIZES[name]).state_dict()
    tensors, parameters, size = PUBLISHED_SIZES[name]
    assert (len(state), sum(tensor.numel() for tensor in state.values())) == (tensors, parameters)
    assert 4 * parameters < size < PUBLISHED[name].most_bytes < 4 * parameters + 2e6
    tokens = ["cls_token", "pos_embed", "mask_token"]
    patches = ["patch_embed.proj.weight", "patch_embed.proj.bias"]
    blocks = [f"blocks.{i}.{part}" for i in range(SIZES[name].depth) for part in BLOCK.split()]
    assert list(state) == [*tokens, *patches, *blocks, "norm.weight", "norm.bias"]
    assert state["pos_embed"].shape == (1, 1 + (518 // 14) ** 2, SIZES[name].width)


GOLDEN = [0.1773699, -0.04783772, 0.3248141, 0.02296359, 0.2459404]
"""The first three features of the first image, the mean and the deviation of all."""


def test_what_it_sees_is_what_transformers_sees(network, generator):
    """Recorded with these weights in the Dinov2Model of transformers 5.23."""
    seen = network.features(images_of_its_training(generator))
    found = [*seen[0, :3].tolist(), float(seen.mean()), float(seen.std())]
    assert found == pytest.approx(GOLDEN, rel=1e-4)


def test_transformers_own_network_sees_the_same(network, generator, tmp_path):
    """At the size of its training: at others transformers leaves out the offset of 0.1."""
    pytest.importorskip("transformers", reason="runs where `pip install transformers` was")
    from transformers import Dinov2Config, Dinov2Model

    config = Dinov2Config(
        hidden_size=TINY.width,
        num_hidden_layers=TINY.depth,
        num_attention_heads=TINY.heads,
        image_size=518,
    )
    config.save_pretrained(tmp_path)
    save_file(in_their_words(network.state_dict()), tmp_path / "model.safetensors")
    theirs = Dinov2Model.from_pretrained(tmp_path)
    images = images_of_its_training(generator)
    with torch.no_grad():
        expected = theirs(images).pooler_output
    torch.testing.assert_close(network.features(images), expected, rtol=1e-4, atol=1e-5)


def images_of_its_training(generator: torch.Generator) -> Tensor:
    return torch.randn(1, 3, 518, 518, generator=generator)


THEIR_WORDS = {
    "cls_token": "embeddings.cls_token",
    "pos_embed": "embeddings.position_embeddings",
    "mask_token": "embeddings.mask_token",
    "patch_embed.proj": "embeddings.patch_embeddings.projection",
    "blocks": "encoder.layer",
    "attn.proj": "attention.output.dense",
    "ls1.gamma": "layer_scale1.lambda1",
    "ls2.gamma": "layer_scale2.lambda1",
}


def in_their_words(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """As the hub's model.safetensors has them."""
    theirs = {}
    for name, tensor in state.items():
        for ours, word in THEIR_WORDS.items():
            name = name.replace(ours, word)
        if name.startswith("norm."):
            name = f"layer{name}"
        if "attn.qkv" in name:
            parts = zip(("query", "key", "value"), tensor.chunk(3), strict=True)
            theirs |= {
                name.replace("attn.qkv", f"attention.attention.{part}"): x.contiguous()
                for part, x in parts
            }
        else:
            theirs[name] = tensor
    return theirs


def cubic(distance: np.ndarray) -> np.ndarray:
    """Keys' kernel with a = -3/4, which torch has where nothing is antialiased."""
    d, a = np.abs(distance), -0.75
    near = (a + 2) * d**3 - (a + 3) * d**2 + 1
    far = a * (d**3 - 5 * d**2 + 8 * d - 4)
    return np.where(d <= 1, near, np.where(d < 2, far, 0))


def test_positions_between_the_trained_ones_are_those_of_metas_code(network):
    """Place i of 16 takes from (i + 1/2) 37 / 16.1 - 1/2, without antialiasing."""
    places = (np.arange(16) + 0.5) * GRID / 16.1 - 0.5
    taken = np.floor(places)[:, None] + np.arange(-1, 3)
    weights = np.zeros((16, GRID))
    for i, (place, columns) in enumerate(zip(places, taken, strict=True)):
        for column in columns:
            weights[i, int(np.clip(column, 0, GRID - 1))] += cubic(place - column)
    trained = network.pos_embed[0, 1:].numpy().reshape(GRID, GRID, -1)
    expected = np.einsum("iy,jx,yxc->ijc", weights, weights, trained).reshape(256, -1)
    found = network.positions(16, 16)[0]
    assert torch.equal(found[0], network.pos_embed[0, 0])
    np.testing.assert_allclose(found[1:], expected, rtol=1e-3, atol=1e-5)
    assert network.positions(GRID, GRID) is network.pos_embed


def test_images_are_resized_with_antialiasing_and_normalised(network, pixels):
    resized = functional.interpolate(pixels, (224, 224), mode="bicubic", antialias=True)
    mean = torch.tensor([123.675, 116.28, 103.53]).reshape(3, 1, 1)
    std = torch.tensor([58.395, 57.12, 57.375]).reshape(3, 1, 1)
    expected = network.features((resized - mean) / std)
    assert expected.shape == (2, TINY.width)
    torch.testing.assert_close(network(pixels).features, expected, rtol=1e-4, atol=1e-4)


# Weights


def test_without_weights_one_line_says_where_they_come_from(monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    with pytest.raises(UserError) as caught:
        DinoV2Config().check()
    assert str(caught.value) == (
        "judge.features.weights must name dinov2_vitl14_pretrain.pth (1217.6 MB, "
        f"https://dl.fbaipublicfiles.com/dinov2/dinov2_vitl14): set it or {VARIABLE}"
    )


def test_the_variable_is_looked_up_and_written_out(monkeypatch, tmp_path):
    monkeypatch.setenv(VARIABLE, str(tmp_path / "a.pth"))
    assert DinoV2Config().resolved().weights == tmp_path / "a.pth"
    given = DinoV2Config(network="vits14", weights=tmp_path / "b.pth")
    assert given.resolved() == given


@pytest.mark.parametrize("content", [b"not weights", None], ids=["text", "missing"])
def test_another_file_is_refused_in_one_line(content, tmp_path):
    file = tmp_path / "dinov2.pth"
    if content is not None:
        file.write_bytes(content)
    config = DinoV2Config(weights=file, network="vitb14")
    reason = "No such file" if content is None else r"another file \([0-9a-f]{8}\.\.\.\)"
    for use in (config.check, config.load):
        line = rf"^judge\.features\.weights must be dinov2_vitb14_pretrain\.pth .*{reason}"
        with pytest.raises(UserError, match=line):
            use()


@pytest.fixture
def published(network, tmp_path, monkeypatch) -> Path:
    """The small network's weights in a file that stands for vits14's."""
    file = tmp_path / "dinov2_vits14_pretrain.pth"
    torch.save(network.state_dict(), file)
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    stands_for = {**PUBLISHED, "vits14": PUBLISHED["vits14"]._replace(sha256=sha256)}
    monkeypatch.setattr(dinov2, "PUBLISHED", stands_for)
    return file


def test_the_file_or_its_folder_holds_the_weights(published, network, pixels, monkeypatch):
    monkeypatch.setitem(SIZES, "vits14", TINY)
    for where in (published, published.parent):
        config = DinoV2Config(network="vits14", weights=where)
        config.check()
        loaded = config.load()
        assert not loaded.training
        assert not any(weights.requires_grad for weights in loaded.parameters())
        assert torch.equal(loaded(pixels).features, network(pixels).features)


def test_weights_of_another_size_are_refused(published):
    config = DinoV2Config(network="vits14", weights=published)
    with pytest.raises(UserError, match=r"^judge\.features\.weights must be weights of DinoV2, "):
        config.load()
    with pytest.raises(UserError, match=r"must be dinov2_vitl14_pretrain\.pth .* another file"):
        DinoV2Config(weights=published).check()


def test_only_the_scores_of_the_large_network_have_the_name_of_papers():
    assert DinoV2Config().names("faces")[:2] == ("fd_dinov2", "kid_dinov2")
    base = DinoV2Config(network="vitb14")
    assert base.names("faces")[:2] == ("fd_dinov2_vitb14", "kid_dinov2_vitb14")
    assert DinoV2Config().objective("faces", samples=1024) == "kid_dinov2"
    assert DinoV2Config().objective("faces", samples=1025) == "fd_dinov2"
    assert len({DinoV2Config(network=name).fingerprint() for name in SIZES}) == 3


@pytest.mark.parametrize(
    ("data", "line"),
    [
        ({"network": "vitg14"}, "judge.features.network must be one of 'vits14', 'vitb14' or "
         "'vitl14', got 'vitg14'"),
        ({"weights": 3}, "judge.features.weights must be a path, got 3"),
        ({"reference": "a.npz"}, "judge.features.reference is not a known key"),
    ],
)  # fmt: skip
def test_a_wrong_field_is_named_with_its_rule(data, line):
    with pytest.raises(UserError) as caught:
        parse(JudgeConfig, {"features": {"kind": "dinov2"} | data}, "judge")
    assert str(caught.value).startswith(line)
