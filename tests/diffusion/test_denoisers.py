"""Denoisers are diffusers' own networks with seeded weights."""

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DModel

from stepsearch.config import parse
from stepsearch.diffusion.denoisers import DENOISERS, UNetConfig
from stepsearch.errors import UserError

SHAPES = [(1, 8, 8), (3, 16, 8)]


def weights(network: torch.nn.Module) -> torch.Tensor:
    return torch.nn.utils.parameters_to_vector(network.parameters()).detach()


@pytest.mark.parametrize("kind", DENOISERS)
@pytest.mark.parametrize("shape", SHAPES)
def test_every_denoiser_maps_images_to_images(kind: str, shape: tuple[int, int, int]) -> None:
    network = DENOISERS[kind]().build(shape, seed=0)
    assert network(torch.zeros(2, *shape), torch.tensor([0, 999])).sample.shape == (2, *shape)


@pytest.mark.parametrize("kind", DENOISERS)
def test_the_initial_weights_depend_on_the_seed_only(kind: str) -> None:
    config = DENOISERS[kind]()
    torch.manual_seed(1)
    one = weights(config.build((1, 8, 8), seed=0))
    torch.manual_seed(2)
    assert torch.equal(one, weights(config.build((1, 8, 8), seed=0)))
    assert not torch.equal(one, weights(config.build((1, 8, 8), seed=1)))


@pytest.mark.parametrize("kind", DENOISERS)
def test_building_leaves_the_global_random_state_alone(kind: str) -> None:
    state = torch.get_rng_state()
    DENOISERS[kind]().build((1, 8, 8), seed=0)
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("kind", DENOISERS)
@pytest.mark.parametrize("shape", SHAPES)
def test_diffusers_saves_and_loads_every_denoiser(
    kind: str, shape: tuple[int, int, int], tmp_path: Path
) -> None:
    network = DENOISERS[kind]().build(shape, seed=0)
    assert isinstance(network, UNet2DModel)
    network.save_pretrained(tmp_path)
    loaded = UNet2DModel.from_pretrained(tmp_path)
    x, t = torch.ones(2, *shape), torch.tensor([0, 999])
    assert torch.equal(network.eval()(x, t).sample, loaded(x, t).sample)


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
    ],
)
def test_bad_fields_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        parse(UNetConfig, fields, "denoiser")
    assert str(error.value) == message
