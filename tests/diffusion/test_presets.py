"""Presets are the published networks: their sizes, their configs, and how they are written out."""

from typing import Any, get_args

import pytest
import torch

from stepsearch.config import merge, parse
from stepsearch.diffusion.denoisers import DiTConfig, UNetConfig
from stepsearch.diffusion.denoisers.dit import Size
from stepsearch.errors import UserError

# config.json of google/ddpm-cifar10-32, google/ddpm-cat-256 and CompVis/ldm-celebahq-256
COMMON = {"mid_block_scale_factor": 1, "center_input_sample": False, "act_fn": "silu"}
DDPM = COMMON | {
    "attention_head_dim": None,
    "downsample_padding": 0,
    "flip_sin_to_cos": False,
    "freq_shift": 1,
    "layers_per_block": 2,
    "norm_eps": 1e-6,
    "norm_num_groups": 32,
}
HUB: dict[str, tuple[dict[str, Any], int]] = {
    "ddpm_cifar10": (
        DDPM
        | {
            "sample_size": 32,
            "block_out_channels": (128, 256, 256, 256),
            "down_block_types": ("DownBlock2D", "AttnDownBlock2D", *["DownBlock2D"] * 2),
            "up_block_types": (*["UpBlock2D"] * 2, "AttnUpBlock2D", "UpBlock2D"),
        },
        35_746_307,
    ),
    "ddpm_256": (
        DDPM
        | {
            "sample_size": 256,
            "block_out_channels": (128, 128, 256, 256, 512, 512),
            "down_block_types": (*["DownBlock2D"] * 4, "AttnDownBlock2D", "DownBlock2D"),
            "up_block_types": ("UpBlock2D", "AttnUpBlock2D", *["UpBlock2D"] * 4),
        },
        113_673_219,
    ),
    "ldm_celebahq": (
        COMMON
        | {
            "sample_size": 64,
            "attention_head_dim": 32,
            "block_out_channels": (224, 448, 672, 896),
            "down_block_types": ("DownBlock2D", *["AttnDownBlock2D"] * 3),
            "downsample_padding": 1,
            "flip_sin_to_cos": True,
            "freq_shift": 0,
            "layers_per_block": 2,
            "norm_eps": 1e-5,
            "norm_num_groups": 32,
            "up_block_types": (*["AttnUpBlock2D"] * 3, "UpBlock2D"),
        },
        274_056_163,
    ),
}

# M parameters in table 4 of the DiT paper: ImageNet's 1000 classes, 32x32 latents of 4 channels
PUBLISHED = {
    "S/8": 33, "S/4": 33, "S/2": 33, "B/8": 131, "B/4": 130, "B/2": 130,
    "L/8": 459, "L/4": 458, "L/2": 458, "XL/8": 676, "XL/4": 675, "XL/2": 675,
}  # fmt: skip


def parameters(network: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize("preset", UNetConfig.PRESETS)
def test_a_unets_preset_is_that_of_the_hub(preset: str) -> None:
    config, count = HUB[preset]
    size = config["sample_size"]
    with torch.device("meta"):
        network = parse(UNetConfig, {"preset": preset}).build((3, size, size), seed=0)
    assert parameters(network) == count
    assert {key: network.config[key] for key in config} == config
    theirs = {"class_embed_type": None, "resnet_time_scale_shift": "default"}
    assert {key: network.config[key] for key in theirs} == theirs


def as_published(network: torch.nn.Module) -> int:
    """Parameters of a 4-channel network, of which each block has an embedding for itself, with
    what the authors' has: a single embedding, 1000 classes and a predicted variance."""
    blocks, width = network.transformer_blocks, network.inner_dim
    embeddings = parameters(blocks[0].norm1.emb) * (len(blocks) - 1)
    return parameters(network) - embeddings + 1000 * width + parameters(network.proj_out_2)


@pytest.mark.parametrize("preset", DiTConfig.PRESETS)
def test_a_transformers_preset_has_the_published_size(preset: str) -> None:
    with torch.device("meta"):
        network = parse(DiTConfig, {"preset": preset}).build((4, 32, 32), seed=0)
    assert round(as_published(network) / 1e6) == PUBLISHED[preset]


def test_the_largest_has_what_the_authors_code_prints() -> None:
    with torch.device("meta"):
        network = DiTConfig(preset="XL/2").build((4, 32, 32), seed=0)
    positions = 16**2 * network.inner_dim  # which are fixed, but counted there
    assert as_published(network) + positions == 675_129_632


@pytest.mark.parametrize(
    ("preset", "depth", "width", "heads"), [("S/2", 12, 384, 6), ("XL/2", 28, 1152, 16)]
)
def test_the_sizes_of_speed_are_those_of_table_6(
    preset: Size, depth: int, width: int, heads: int
) -> None:
    config = DiTConfig(preset=preset)
    assert (config.layers, config.heads * config.head_width) == (depth, width)
    assert (config.heads, config.patch) == (heads, 2)


def test_every_preset_can_be_named() -> None:
    assert get_args(Size) == tuple(DiTConfig.PRESETS)
    (names, _) = get_args(UNetConfig.model_fields["preset"].annotation)
    assert get_args(names) == tuple(UNetConfig.PRESETS)


def test_fields_that_are_given_override_the_preset() -> None:
    config = parse(DiTConfig, {"preset": "XL/8", "patch": 2, "layers": 3})
    assert (config.patch, config.layers, config.heads) == (2, 3, 16)
    unet = parse(UNetConfig, {"preset": "ddpm_cifar10", "dropout": 0})
    assert (unet.dropout, unet.channels) == (0, (128, 256, 256, 256))


@pytest.mark.parametrize(
    "fields",
    [
        {"preset": "ddpm_cifar10", "dropout": 0.3},
        {"preset": "ldm_celebahq", "channels": [64, 128, 192, 256]},
        {"channels": [8, 16]},
    ],
)
def test_a_config_is_read_again_as_it_was_written(fields: dict[str, Any]) -> None:
    config = parse(UNetConfig, fields)
    for mode in ("python", "json"):
        assert parse(UNetConfig, config.model_dump(mode=mode)) == config


def test_a_proposal_may_be_another_preset() -> None:
    """A search lays it over the trainer's configuration as it is written out."""
    given = parse(DiTConfig, {"preset": "S/2", "dropout": 0.1})
    proposed = merge(given.model_dump(), {"kind": "dit", "preset": "B/4"})
    assert parse(DiTConfig, proposed) == DiTConfig(preset="B/4", dropout=0.1)
    proposed = merge(given.model_dump(), {"kind": "dit", "patch": 8})
    assert parse(DiTConfig, proposed) == DiTConfig(preset="S/2", dropout=0.1, patch=8)


NAMES = ", ".join(map(repr, get_args(Size)[:-1])) + f" or {get_args(Size)[-1]!r}"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"preset": "S/3"}, f"preset must be one of {NAMES}, got 'S/3'"),
        ({"preset": {}}, f"preset must be one of {NAMES}, got {{}}"),
        ({"layers": 0}, "layers must be at least 1, got 0"),
        ({"layers": 65}, "layers must be at most 64, got 65"),
        ({"patch": 0}, "patch must be at least 1, got 0"),
        ({"heads": 65}, "heads must be at most 64, got 65"),
        ({"head_width": 6}, "head_width must be a multiple of 4, got 6"),
        ({"preset": "S/2", "head_width": 300}, "head_width must be at most 256, got 300"),
        ({"dropout": 1.0}, "dropout must be less than 1, got 1.0"),
        ({"dropout": -0.1}, "dropout must be at least 0, got -0.1"),
        (
            {"layer": 3},
            "layer is not a known key; did you mean 'layers'? (known keys: class_conditional, ",
        ),
    ],
)
def test_bad_fields_of_a_transformer_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        parse(DiTConfig, fields, "denoiser")
    assert str(error.value).startswith(f"denoiser.{message}")


def test_a_transformer_refuses_images_that_are_not_squares_of_patches() -> None:
    for shape, size in [((1, 8, 8), "8x8"), ((1, 9, 12), "9x12")]:
        with pytest.raises(UserError) as error:
            DiTConfig(patch=3).build(shape, seed=0)
        assert str(error.value) == f"denoiser.patch must divide square images, got 3 for {size}"
