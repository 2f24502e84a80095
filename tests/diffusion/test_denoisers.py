"""Denoisers are networks that diffusers saves and loads, with seeded weights."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DModel

from stepsearch.config import parse
from stepsearch.diffusion.datasets import Dataset, DigitsConfig
from stepsearch.diffusion.denoisers import (
    DENOISERS,
    DiTConfig,
    MultistageDiTConfig,
    MultistageUNetConfig,
    UNetConfig,
)
from stepsearch.diffusion.noise import PROCESSES, VPConfig
from stepsearch.diffusion.training import Training
from stepsearch.errors import UserError

SHAPES = [(1, 8, 8), (3, 16, 16)]


def data(*shape: int) -> Dataset:
    """30 images of noise."""
    images = torch.rand(30, *shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return Dataset("noise", images, images[:1], None, None, "")


Build = Callable[..., torch.nn.Module]


@pytest.fixture
def build(tmp_path_factory: pytest.TempPathFactory) -> Build:
    """build("unet", (1, 8, 8), seed=0): the network of a kind's defaults."""

    def make(kind: str, shape: tuple[int, ...] = (1, 8, 8), seed: int = 0) -> torch.nn.Module:
        fields = {}
        if kind == "pretrained":
            fields["path"] = tmp_path_factory.mktemp("saved")
            UNetConfig().build(shape, seed=7).save_pretrained(fields["path"])
        return DENOISERS[kind](**fields).build_for(data(*shape), VPConfig().build(), seed)

    return make


def weights(network: torch.nn.Module) -> torch.Tensor:
    return torch.nn.utils.parameters_to_vector(network.parameters()).detach()


@pytest.mark.parametrize("kind", DENOISERS)
@pytest.mark.parametrize("shape", SHAPES)
def test_every_denoiser_maps_images_to_images(
    kind: str, shape: tuple[int, int, int], build: Build
) -> None:
    network = build(kind, shape)
    for time in (torch.tensor([0, 999]), torch.tensor([0.5, 998.5])):
        assert network(torch.zeros(2, *shape), time).sample.shape == (2, *shape)


@pytest.mark.parametrize("kind", [kind for kind in DENOISERS if kind != "pretrained"])
def test_the_initial_weights_depend_on_the_seed_only(kind: str, build: Build) -> None:
    torch.manual_seed(1)
    one = weights(build(kind, seed=0))
    torch.manual_seed(2)
    assert torch.equal(one, weights(build(kind, seed=0)))
    assert not torch.equal(one, weights(build(kind, seed=1)))


@pytest.mark.parametrize("kind", DENOISERS)
def test_building_leaves_the_global_random_state_alone(kind: str, build: Build) -> None:
    state = torch.get_rng_state()
    build(kind)
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("kind", DENOISERS)
@pytest.mark.parametrize("shape", SHAPES)
def test_diffusers_saves_and_loads_every_denoiser(
    kind: str, shape: tuple[int, int, int], build: Build, tmp_path: Path
) -> None:
    network = build(kind, shape)
    network.save_pretrained(tmp_path)
    loaded = type(network).from_pretrained(tmp_path)
    assert torch.equal(weights(network), weights(loaded))
    x, t = torch.ones(2, *shape), torch.tensor([0, 999])
    expected = network.eval()(x, t).sample
    torch.testing.assert_close(loaded(x, t).sample, expected, rtol=1e-4, atol=1e-5)


def test_the_default_has_about_160_thousand_weights_for_8x8_digits() -> None:
    assert len(weights(UNetConfig().build((1, 8, 8), seed=0))) == 163_985


def test_attention_is_in_the_middle_block_or_nowhere() -> None:
    def attentions(attention: str) -> list[str]:
        network = parse(UNetConfig, {"attention": attention}).build((1, 8, 8), seed=0)
        return [name for name, _ in network.named_modules() if name.endswith("to_q")]

    assert attentions("mid") == ["mid_block.attentions.0.to_q"]
    assert attentions("none") == []


def test_an_image_that_cannot_be_halved_often_enough_is_refused() -> None:
    with pytest.raises(UserError) as error:
        UNetConfig(channels=(8, 8, 8)).build((1, 10, 12), seed=0)
    assert str(error.value) == (
        "denoiser.channels must have levels that halve 10x12 images evenly, got 3 levels"
    )


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kind": "dit"}, "denoiser.kind must be one of 'unet', got 'dit'"),
        ({"channels": 16}, "denoiser.channels must be a list, got 16"),
        ({"channels": []}, "denoiser.channels must be 1 to 8 integers, got ()"),
        ({"channels": [8, 0]}, "denoiser.channels[1] must be at least 1, got 0"),
        ({"channels": [8, 9000]}, "denoiser.channels[1] must be at most 4096, got 9000"),
        (
            {"channels": [12, 32]},
            "denoiser.channels must be multiples of groups (8), got (12, 32)",
        ),
        ({"layers": 0}, "denoiser.layers must be at least 1, got 0"),
        ({"layers": 9}, "denoiser.layers must be at most 8, got 9"),
        ({"groups": 0}, "denoiser.groups must be at least 1, got 0"),
        ({"groups": 3}, "denoiser.channels must be multiples of groups (3), got (16, 32)"),
        ({"attention": "all"}, "denoiser.attention must be one of 'none' or 'mid', got 'all'"),
        ({"attention_levels": 1}, "denoiser.attention_levels must be a list, got 1"),
        ({"attention_levels": [-1]}, "denoiser.attention_levels[0] must be at least 0, got -1"),
        (
            {"attention_levels": [2]},
            "denoiser.attention_levels must be different ones of 0..1, got (2,)",
        ),
        (
            {"attention_levels": [1, 1]},
            "denoiser.attention_levels must be different ones of 0..1, got (1, 1)",
        ),
        ({"head_width": 0}, "denoiser.head_width must be at least 1, got 0"),
        (
            {"head_width": 32, "attention_levels": [0]},
            "denoiser.head_width must divide the channels that have attention, [16, 32], got 32",
        ),
        ({"dropout": 1}, "denoiser.dropout must be less than 1, got 1"),
        ({"details": "ldm"}, "denoiser.details must be one of 'diffusers' or 'ddpm', got 'ldm'"),
        (
            {"preset": "ddpm_cifar"},
            "denoiser.preset must be one of 'ddpm_cifar10', 'ddpm_256' or 'ldm_celebahq',"
            " got 'ddpm_cifar'",
        ),
        (
            {"preset": ["ddpm_256"]},
            "denoiser.preset must be one of 'ddpm_cifar10', 'ddpm_256' or"
            " 'ldm_celebahq', got ['ddpm_256']",
        ),
    ],
)
def test_bad_fields_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        parse(UNetConfig, fields, "denoiser")
    assert str(error.value) == message


def test_attention_is_at_the_levels_that_ask_for_it() -> None:
    network = UNetConfig(attention_levels=(0,), head_width=8, attention="none").build(
        (1, 8, 8), seed=0
    )
    heads = {name: m.heads for name, m in network.named_modules() if hasattr(m, "to_q")}
    assert heads == {
        "down_blocks.0.attentions.0": 2,
        "up_blocks.1.attentions.0": 2,
        "up_blocks.1.attentions.1": 2,
    }


def test_the_fields_of_presets_leave_the_default_network_as_it_was() -> None:
    """Bit for bit what it was without them."""
    torch.manual_seed(3)
    before = UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        block_out_channels=(16, 32),
        layers_per_block=1,
        norm_num_groups=8,
        down_block_types=("DownBlock2D",) * 2,
        up_block_types=("UpBlock2D",) * 2,
        add_attention=True,
        attention_head_dim=None,
    )
    now = UNetConfig().build((1, 8, 8), seed=3)
    assert torch.equal(weights(before), weights(now))
    given = dict(now.config) | {"_use_default_values": None}
    assert given == dict(before.config) | {"_use_default_values": None}


# --- stages -------------------------------------------------------------------------------------


@pytest.mark.parametrize("process", PROCESSES)
def test_boundaries_are_matched_by_their_noise(process: str) -> None:
    """B5: 0.442 and 0.631 of the VP kernel are sigma 2.5103 and 7.4141."""
    config, noise = MultistageUNetConfig(boundaries=(0.442, 0.631)), PROCESSES[process]().build()
    starts = config.starts(data(1, 8, 8), noise)
    for start, sigma in zip(starts, (2.5103, 7.4141), strict=True):
        assert noise.sigma[start - 1] < sigma <= noise.sigma[start]
    network = config.build_for(data(1, 8, 8), noise, seed=0)
    t = torch.arange(noise.T)
    stage = network.stage(noise.time(t))
    assert torch.equal(stage, torch.bucketize(t, torch.tensor(starts), right=True))


def test_a_jittered_level_stays_in_the_stage_of_its_timestep() -> None:
    noise = PROCESSES["edm"]().build()
    config = MultistageUNetConfig(boundaries=(0.442, 0.631))
    network = config.build_for(data(1, 8, 8), noise, seed=0)
    t = torch.arange(noise.T).repeat(20)
    levels = noise.jitter(t, torch.Generator().manual_seed(0))
    assert torch.equal(network.stage(noise.time(levels)), network.stage(noise.time(t)))


def test_a_level_that_rounds_over_its_bins_end_goes_to_the_decoder_of_its_timestep(
    build_training: Callable[..., Training], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In float32, 436 + 0.99999994 - 0.5 is 436.5, where the next bin begins, and its stage: some
    worker may have no decoder for that."""
    noise = PROCESSES["edm"]().build()
    monkeypatch.setattr(noise, "jitter", lambda t, generator: t + 0.5)
    training = build_training(process=noise, stages_a_worker="all", prediction_type="edm")
    (start,) = MultistageUNetConfig(boundaries=(0.4,), decoders=((8, 8),) * 2).starts(
        data(1, 8, 8), noise
    )
    ends = torch.tensor([start - 1, start]).repeat(4)
    monkeypatch.setattr(training.strategy, "draw", lambda n, generator: ends)
    went: list[int] = []
    for decoder in training.denoiser.decoders:  # type: ignore[union-attr]
        decoder.register_forward_hook(lambda _, given, output: went.append(len(output)))
    training.run(8)
    assert went == [4, 4]


def test_boundaries_that_are_not_given_are_found_for_the_data() -> None:
    """B11: Algorithm 1 on the digits, VP."""
    digits, noise = DigitsConfig().load(), VPConfig().build()
    first, second = MultistageUNetConfig().starts(digits, noise)
    assert first == pytest.approx(95, abs=7)
    assert second == pytest.approx(440, abs=11)
    assert MultistageDiTConfig(tails=(2, 1)).starts(digits, noise)[0] == pytest.approx(476, abs=26)


def test_data_in_which_algorithm_1_finds_no_three_stages_need_boundaries_of_ones_own() -> None:
    """Few images of many pixels: the noise hides which one it is, and at once all of them."""
    few, noise = data(3, 32, 32), VPConfig().build()
    with pytest.raises(UserError) as error:
        MultistageUNetConfig().starts(few, noise)
    assert re.fullmatch(
        r"denoiser\.boundaries must be given for 'noise': by Algorithm 1 the first of three stages"
        r" ends at 0\.\d+ and the last begins at 0\.\d+; by Algorithm 2 they would be"
        r" 0\.\d+, 0\.\d+",
        str(error.value),
    )
    assert len(MultistageUNetConfig(decoders=((8, 8),) * 2).starts(few, noise)) == 1


def test_a_new_transformer_with_stages_is_adaln_zero_as_the_one_without() -> None:
    """Also after `from_config`, with which an exported script begins anew."""
    made = MultistageDiTConfig(boundaries=(0.1, 0.4)).build_for(
        data(1, 8, 8), VPConfig().build(), seed=0
    )
    plain = DiTConfig().build((1, 8, 8), seed=0)
    x, t = torch.randn(3, 1, 8, 8), torch.tensor([0, 300, 999])
    labels = torch.zeros(3, dtype=torch.int64)
    for network in (made, type(made).from_config(made.config)):
        assert not network(x, t).sample.any()
        tokens = network.pos_embed(x)
        for block in (network.transformer_blocks[0], network.decoders[0].transformer_blocks[0]):
            passed_on = block(tokens, timestep=t, class_labels=labels)
            assert torch.equal(passed_on, tokens)
            theirs = dict(plain.transformer_blocks[0].named_parameters())
            for name, weight in block.named_parameters():
                assert weight.std(correction=0).item() == pytest.approx(
                    theirs[name].std(correction=0).item(), rel=0.2
                )


def test_one_stage_has_no_boundaries() -> None:
    config = MultistageUNetConfig(decoders=((16, 32),))
    assert config.starts(data(1, 8, 8), VPConfig().build()) == ()
    network = config.build_for(data(1, 8, 8), VPConfig().build(), seed=0)
    theirs = {
        f"decoders.0.{k}": v for k, v in UNetConfig().build((1, 8, 8), 0).state_dict().items()
    }
    for name, value in network.state_dict().items():
        assert torch.equal(value, theirs[f"decoders.0.{name.removeprefix('decoders.0.')}"])


def test_a_stage_without_timesteps_is_refused() -> None:
    noise = VPConfig(timesteps=50).build()
    with pytest.raises(UserError) as error:
        MultistageUNetConfig(boundaries=(0.442, 0.443)).starts(data(1, 8, 8), noise)
    assert str(error.value) == (
        "denoiser.boundaries must leave every stage some of the 50 timesteps, got 0.442, 0.443,"
        " which are timesteps 21, 21"
    )


def test_a_transformer_refuses_images_that_are_not_whole_patches() -> None:
    with pytest.raises(UserError) as error:
        MultistageDiTConfig(patch=3).build_for(data(1, 8, 8), VPConfig().build(), 0)
    assert str(error.value) == "denoiser.patch must divide square images, got 3 for 8x8"


@pytest.mark.parametrize(
    ("kind", "fields", "message"),
    [
        ("unet", {"boundaries": [0.4]}, "boundaries must be 2 for 3 stages, got [0.4]"),
        (
            "unet",
            {"boundaries": [0.6, 0.4]},
            "boundaries must be one to four times 0 < t_1 < t_2 < ... < 1, got [0.6, 0.4]",
        ),
        ("unet", {"boundaries": "best"}, "boundaries must be a list, got 'best'"),
        ("unet", {"decoders": []}, "decoders must be a list of 1 or more, got []"),
        ("unet", {"decoders": [[8, 8]] * 6}, "decoders must be a list of 5 or fewer, got"),
        (
            "unet",
            {"decoders": [[8, 16], [8]], "boundaries": [0.4]},
            "decoders must have equally many levels, got ((8, 16), (8,))",
        ),
        (
            "unet",
            {"decoders": [[8], [8]]},
            "decoders must have the 2 levels of channels, got ((8,), (8,))",
        ),
        ("unet", {"decoders": [[0, 8], [8, 8]]}, "decoders[0][0] must be at least 1, got 0"),
        ("unet", {"layers": 0}, "layers must be at least 1, got 0"),
        ("dit", {"patch": 0}, "patch must be at least 1, got 0"),
        ("dit", {"heads": 0}, "heads must be at least 1, got 0"),
        ("dit", {"head_width": 6}, "head_width must be a multiple of 4, got 6"),
        ("dit", {"trunk": 0}, "trunk must be at least 1, got 0"),
        ("dit", {"tails": [1, 0]}, "tails[1] must be at least 1, got 0"),
        ("dit", {"boundaries": [0.4]}, "boundaries must be 2 for 3 stages, got [0.4]"),
    ],
)
def test_bad_stages_are_refused(kind: str, fields: dict[str, Any], message: str) -> None:
    config = {"unet": MultistageUNetConfig, "dit": MultistageDiTConfig}[kind]
    with pytest.raises(UserError) as error:
        parse(config, fields, "denoiser")
    assert str(error.value).startswith(f"denoiser.{message}")
