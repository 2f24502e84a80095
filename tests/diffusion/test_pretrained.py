"""Training goes on from any network that diffusers saved, and from nothing else."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMPipeline, DDIMScheduler, DiTTransformer2DModel, UNet2DModel
from safetensors.torch import load_file, save_file

from stepsearch.config import parse
from stepsearch.diffusion.datasets import DigitsConfig
from stepsearch.diffusion.denoisers import DiTConfig, PretrainedConfig, UNetConfig
from stepsearch.diffusion.noise import VPConfig
from stepsearch.diffusion.weights import WEIGHTS
from stepsearch.errors import UserError

SHAPE = (1, 8, 8)
TIMES = torch.tensor([0, 999])


def load(path: Path, seed: int = 0) -> torch.nn.Module:
    config = PretrainedConfig(path=path)
    config.check(SHAPE)
    return config.build_for(DigitsConfig().load(), VPConfig().build(), seed)


def weights(network: torch.nn.Module) -> torch.Tensor:
    return torch.nn.utils.parameters_to_vector(network.parameters()).detach()


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A folder with a U-Net."""
    UNetConfig(channels=(8, 16)).build(SHAPE, seed=5).save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"


Edit = Callable[..., None]


@pytest.fixture
def edit(saved: Path) -> Edit:
    """edit(key=value): change config.json."""

    def change(**values: Any) -> None:
        file = saved / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | values))

    return change


def refusal(path: Path) -> str:
    with pytest.raises(UserError) as error:
        load(path)
    return str(error.value).replace(str(path), "SAVED")


@pytest.mark.parametrize("config", [UNetConfig(attention_levels=(1,)), DiTConfig(layers=1)])
def test_what_was_trained_here_is_trained_on(config: Any, tmp_path: Path) -> None:
    network = config.build(SHAPE, seed=5)
    network.save_pretrained(tmp_path)
    loaded = load(tmp_path)
    assert type(loaded) is type(network)
    assert torch.equal(weights(loaded), weights(network))
    assert loaded.training
    assert all(parameter.requires_grad for parameter in loaded.parameters())


def test_the_weights_are_the_same_for_all_seeds(saved: Path) -> None:
    assert torch.equal(weights(load(saved, seed=0)), weights(load(saved, seed=1)))


@pytest.mark.parametrize("part", ["unet", "transformer"])
def test_a_pipelines_folder_will_do(part: str, tmp_path: Path) -> None:
    network = UNetConfig(channels=(8, 16)).build(SHAPE, seed=5)
    pipeline = DDIMPipeline(network, DDIMScheduler())
    pipeline.save_pretrained(tmp_path)
    (tmp_path / "unet").rename(tmp_path / part)
    assert torch.equal(weights(load(tmp_path)), weights(network))


def test_half_precision_becomes_single(saved: Path) -> None:
    before = load(saved)
    before.half().save_pretrained(saved)
    loaded = load(saved)
    assert loaded.dtype == torch.float32
    assert torch.equal(weights(loaded), weights(before).float())


def test_the_hubs_older_names_of_weights_are_known(saved: Path) -> None:
    """As in google/ddpm-cifar10-32."""
    before = load(saved)
    names = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    renamed = {}
    for name, value in load_file(saved / WEIGHTS).items():
        for new, old in names.items():
            name = name.replace(f".{new}.", f".{old}.")
        renamed[name] = value
    save_file(renamed, saved / WEIGHTS, metadata={"format": "pt"})
    assert torch.equal(weights(load(saved)), weights(before))


def test_a_transformer_with_classes_is_trained_on_its_null_class(tmp_path: Path) -> None:
    theirs = DiTTransformer2DModel(2, 8, 1, num_layers=1, sample_size=8, num_embeds_ada_norm=10)
    theirs.eval().save_pretrained(tmp_path)
    x = torch.ones(2, *SHAPE)
    expected = theirs(x, TIMES, torch.tensor([10, 10])).sample
    torch.testing.assert_close(load(tmp_path)(x, TIMES).sample, expected)


def test_a_network_is_told_classes_where_its_config_says_so(tmp_path: Path) -> None:
    data, labels = DigitsConfig().load(), torch.tensor([3, 10])
    bare = replace(data, train_labels=None)
    for config in (UNetConfig(channels=(8, 16)), DiTConfig(layers=1)):
        folder = tmp_path / config.kind
        network = config.build(SHAPE, seed=5, classes=10)
        network.save_pretrained(folder)
        loaded, saved = load(folder), PretrainedConfig(path=folder)
        assert type(loaded) is type(network)
        assert torch.equal(
            loaded(torch.ones(2, *SHAPE), TIMES, class_labels=labels).sample,
            network(torch.ones(2, *SHAPE), TIMES, class_labels=labels).sample,
        )
        assert saved.classes(data) == 10
        few = replace(data, train_labels=data.train_labels % 4)
        assert saved.classes(few) == 4
        config.build(SHAPE, seed=5).save_pretrained(folder)
        assert saved.classes(data) == saved.classes(bare) == 0


def test_classes_that_a_network_does_not_know_are_refused(tmp_path: Path) -> None:
    UNetConfig(channels=(8, 16)).build(SHAPE, seed=5, classes=9).save_pretrained(tmp_path)
    data, saved = DigitsConfig().load(), PretrainedConfig(path=tmp_path)
    for images, line in (
        (
            data,
            "denoiser.path must be a network that knows the data set's 10 classes, got 9 and the"
            f" null class: {tmp_path}",
        ),
        (
            replace(data, train_labels=None),
            "denoiser.path must be a network without classes for images without labels, as"
            f" 'digits', got 9 classes: {tmp_path}",
        ),
    ):
        with pytest.raises(UserError) as caught:
            saved.classes(images)
        assert str(caught.value) == line


def test_a_transformer_with_classes_takes_images_without_labels(tmp_path: Path) -> None:
    DiTConfig(layers=1).build(SHAPE, seed=5, classes=10).save_pretrained(tmp_path)
    bare = replace(DigitsConfig().load(), train_labels=None)
    assert PretrainedConfig(path=tmp_path).classes(bare) == 0


def test_code_in_the_folder_is_not_run(saved: Path, edit: Edit) -> None:
    mine = saved / "mine.py"
    mine.write_text("raise SystemExit('it was run')\n")
    (saved / "modeling.py").write_text("raise SystemExit('it was run')\n")
    edit(auto_map={"AutoModel": "mine.Network"})
    load(saved)
    edit(_class_name="Network")
    assert refusal(saved).startswith("SAVED/config.json: _class_name must be one of 'UNet2DModel'")


def test_pickled_weights_are_not_read(saved: Path) -> None:
    torch.save(load(saved).state_dict(), saved / "diffusion_pytorch_model.bin")
    (saved / WEIGHTS).unlink()
    assert refusal(saved) == (
        "denoiser.path must hold its weights in one file diffusion_pytorch_model.safetensors,"
        " got 'SAVED'"
    )


CHOICES = "'UNet2DModel', 'DiTTransformer2DModel', 'UnconditionalDiT', 'ClassConditionalDiT'"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"_class_name": "UNet2DConditionModel"},
            f"SAVED/config.json: _class_name must be one of {CHOICES}, got 'UNet2DConditionModel'",
        ),
        (
            {"_class_name": ["UNet2DModel"]},
            f"SAVED/config.json: _class_name must be one of {CHOICES}, got \"['UNet2DModel']\"",
        ),
        (
            {"in_channels": 3},
            "denoiser.path must be a network with 1 channels in and out, as the data set has,"
            " got 3 in and 1 out: SAVED",
        ),
        (
            {"out_channels": 2},
            "denoiser.path must be a network with 1 channels in and out, as the data set has,"
            " got 1 in and 2 out: SAVED",
        ),
        (
            {"sample_size": 16},
            "denoiser.path must be a network for the data set's 8x8 pixels,"
            " got sample_size 16x16: SAVED",
        ),
        (
            {"sample_size": None},
            "SAVED/config.json: sample_size must be a list, got None",
        ),
        (
            {"block_out_channels": [8] * 9},
            "SAVED/config.json: block_out_channels must be a list of 8 or fewer,"
            " got [8, 8, 8, 8, 8, 8, 8, 8, 8]",
        ),
        (
            {"block_out_channels": [8, 100_000]},
            "SAVED/config.json: block_out_channels[1] must be at most 4096, got 100000",
        ),
        (
            {"layers_per_block": 99},
            "SAVED/config.json: layers_per_block must be at most 8, got 99",
        ),
        (
            {"time_embedding_type": "learned"},
            "SAVED/config.json: time_embedding_type must be one of 'positional', got 'learned'",
        ),
        (
            {"time_embedding_dim": 10**9},
            "SAVED/config.json: time_embedding_dim must be at most 16384, got 1000000000",
        ),
    ],
)
def test_a_network_that_does_not_fit_is_refused(
    values: dict[str, Any], message: str, saved: Path, edit: Edit
) -> None:
    edit(**values)
    assert refusal(saved) == message


@pytest.mark.parametrize("field", ["class_embed_type", "quantization_config"])
def test_what_would_need_more_than_images_times_and_classes_is_refused(
    field: str, saved: Path, edit: Edit
) -> None:
    edit(**{field: "timestep"})
    assert refusal(saved).startswith(f"SAVED/config.json: {field}")


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"block_out_channels": [4096, 4096]}, "weights, but"),  # not tried: it would take 9 GB
        ({"add_attention": False}, "in one of them only"),
        ({"mid_block_type": None}, "in one of them only"),
        ({"block_out_channels": [8, 8]}, "size mismatch for"),
        ({"norm_num_groups": 3}, "(8) must be divisible by num_groups (3)"),
        ({"down_block_types": ["NoBlock"] * 2}, "NoBlock does not exist"),
    ],
)
def test_weights_that_do_not_fit_their_config_are_refused(
    values: dict[str, Any], reason: str, saved: Path, edit: Edit
) -> None:
    edit(**values)
    line = refusal(saved)
    assert line.startswith("denoiser.path must hold weights that fit its config.json, got ")
    assert reason in line


def test_damaged_weights_are_refused(saved: Path) -> None:
    (saved / WEIGHTS).write_bytes((saved / WEIGHTS).read_bytes()[:-100])
    assert refusal(saved).startswith("denoiser.path must hold weights that fit its config.json")


def test_weights_in_several_files_are_refused(saved: Path) -> None:
    (saved / f"{WEIGHTS}.index.json").write_text("{}")
    assert "must hold its weights in one file" in refusal(saved)


def test_weights_beyond_the_bound_are_refused(saved: Path) -> None:
    with (saved / WEIGHTS).open("r+b") as file:
        file.truncate(11 * 2**30)  # a hole, which takes no room
    assert refusal(saved) == (
        "denoiser.path must hold at most 10 GiB of weights, got 11.0 GiB: SAVED"
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "SAVED/config.json: must be a mapping, got a list"),
        ("{", "SAVED/config.json: must be JSON: "),
        ("[" * 60_000, "SAVED/config.json: must be JSON: "),
        (" " * 70_000, "SAVED/config.json: must have at most 65536 bytes, got more"),
        ('{"_class_name": "UNet2DModel"}', "SAVED/config.json: in_channels is required"),
    ],
)
def test_a_config_that_is_none_is_refused(content: str, message: str, saved: Path) -> None:
    (saved / "config.json").write_text(content)
    assert refusal(saved).startswith(message)


def test_a_folder_without_a_network_is_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path / "none") == ("denoiser.path must be an existing folder, got 'SAVED'")
    assert refusal(tmp_path) == (
        "denoiser.path must hold a config.json, also in unet/ or transformer/, got 'SAVED'"
    )


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "denoiser.path is required"),
        ({"path": 3}, "denoiser.path must be a path, got 3"),
        ({"path": "a\0b"}, "denoiser.path: a path has no NUL character"),
        ({"path": "a", "seed": 1}, "denoiser.seed is not a known key"),
    ],
)
def test_bad_fields_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        parse(PretrainedConfig, fields, "denoiser")
    assert str(error.value).startswith(message)


def test_the_path_does_not_depend_on_where_a_process_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert PretrainedConfig(path=Path("saved")).path == tmp_path / "saved"


def test_a_unet_of_diffusers_defaults_is_trained_on(tmp_path: Path) -> None:
    """Whatever the class was built with: here other attention, resnets that scale, no mid."""
    torch.manual_seed(0)
    network = UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        block_out_channels=(32, 32),
        down_block_types=("AttnDownBlock2D", "ResnetDownsampleBlock2D"),
        up_block_types=("ResnetUpsampleBlock2D", "AttnUpBlock2D"),
        resnet_time_scale_shift="scale_shift",
        norm_num_groups=8,
    )
    network.eval().save_pretrained(tmp_path)
    x = torch.ones(2, *SHAPE)
    loaded = load(tmp_path).eval()
    torch.testing.assert_close(loaded(x, TIMES).sample, network(x, TIMES).sample)
