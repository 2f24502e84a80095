"""Networks with stages: against diffusers' own, routed image by image, saved and loaded."""

from pathlib import Path

import pytest
import torch
from diffusers import DDIMPipeline, DDIMScheduler, DiTTransformer2DModel, UNet2DModel
from torch import Tensor

from stepsearch.diffusion.multistage.networks import (
    MultistageDiT,
    MultistageModel,
    MultistageUNet,
)

BOUNDARIES = (441.5, 630.5)
TIMES = torch.tensor([0, 441, 442, 630, 631, 999])
STAGES = [0, 0, 1, 1, 2, 2]


def unet(**changes: object) -> MultistageUNet:
    torch.manual_seed(0)
    sizes = {"block_out_channels": (16, 32), "decoder_channels": ((24, 48), (16, 32), (5, 7))}
    fields = {"sample_size": 8, "in_channels": 1, "out_channels": 1, "norm_num_groups": 8}
    return MultistageUNet(**fields | sizes | {"boundaries": BOUNDARIES} | changes).eval()


def dit(**changes: object) -> MultistageDiT:
    torch.manual_seed(0)
    sizes = {"num_attention_heads": 2, "attention_head_dim": 8, "trunk_layers": 1}
    fields = {"sample_size": 8, "in_channels": 1, "out_channels": 1, "tail_layers": (3, 2, 1)}
    made: MultistageDiT = MultistageDiT(**fields | sizes | {"boundaries": BOUNDARIES} | changes)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.1)  # a new one would answer 0
    return made.eval()


@pytest.fixture(params=[unet, dit])
def network(request: pytest.FixtureRequest) -> MultistageModel:
    made: MultistageModel = request.param()
    return made


@pytest.fixture
def images() -> Tensor:
    return torch.randn(len(TIMES), 1, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("attention", [True, False])
def test_a_unet_of_one_stage_is_diffusers_own(
    layers: int, attention: bool, images: Tensor
) -> None:
    torch.manual_seed(1)
    theirs = UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        block_out_channels=(16, 32, 48),
        layers_per_block=layers,
        norm_num_groups=8,
        down_block_types=("DownBlock2D",) * 3,
        up_block_types=("UpBlock2D",) * 3,
        add_attention=attention,
        attention_head_dim=None,
    ).eval()
    ours = unet(
        block_out_channels=(16, 32, 48),
        decoder_channels=((16, 32, 48),),
        boundaries=(),
        layers_per_block=layers,
        add_attention=attention,
    )
    names = {name.removeprefix("decoders.0."): name for name in ours.state_dict()}
    ours.load_state_dict({names[name]: value for name, value in theirs.state_dict().items()})
    assert torch.equal(ours(images, TIMES).sample, theirs(images, TIMES).sample)


def test_a_transformer_of_one_stage_is_diffusers_own(images: Tensor) -> None:
    theirs = DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=1,
        out_channels=2,
        num_layers=3,
        sample_size=8,
        num_embeds_ada_norm=1,
    ).eval()
    torch.manual_seed(1)
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, std=0.2)  # new ones would answer 0
    ours = dit(out_channels=2, trunk_layers=1, tail_layers=(2,), boundaries=())
    blocks = [*ours.transformer_blocks, *ours.decoders[0].transformer_blocks]
    for mine, block in zip(blocks, theirs.transformer_blocks, strict=True):
        mine.load_state_dict(block.state_dict())
    ours.pos_embed.load_state_dict(theirs.pos_embed.state_dict())
    for name in ("proj_out_1", "proj_out_2"):
        getattr(ours.decoders[0], name).load_state_dict(getattr(theirs, name).state_dict())
    expected = theirs(images, TIMES, torch.zeros(len(TIMES), dtype=torch.int64)).sample
    torch.testing.assert_close(ours(images, TIMES).sample, expected, rtol=1e-5, atol=1e-5)


def test_each_image_goes_through_the_decoder_of_its_own_time(
    network: MultistageModel, images: Tensor
) -> None:
    """Methods B7: a mixed batch equals its images one by one to 1e-6."""
    assert network.stage(TIMES).tolist() == STAGES
    mixed = network(images, TIMES).sample
    for i, (image, t, k) in enumerate(zip(images.unsqueeze(1), TIMES, STAGES, strict=True)):
        alone = network.decoders[k](network.encode(image, t[None]))
        torch.testing.assert_close(mixed[i : i + 1], alone, rtol=0, atol=2e-6)
        torch.testing.assert_close(network(image, t).sample, alone, rtol=0, atol=0)
        torch.testing.assert_close(network(image, int(t)).sample, alone, rtol=0, atol=0)


def test_only_the_encoder_and_the_decoder_of_a_stage_get_a_gradient(
    network: MultistageModel, images: Tensor
) -> None:
    network(images[:2], torch.tensor([442, 630])).sample.square().sum().backward()
    own = [any(p.grad is not None for p in decoder.parameters()) for decoder in network.decoders]
    assert own == [False, True, False]
    encoder = [p for name, p in network.named_parameters() if not name.startswith("decoders")]
    assert all(p.grad is not None for p in encoder)


def test_a_hook_that_changes_the_time_does_not_change_the_stage(
    network: MultistageModel, images: Tensor
) -> None:
    """TimeTuner tells the network tau; the decoder is that of the nominal time."""
    tau = torch.full((2,), 450.0)
    expected = network.decoders[0](network.encode(images[:2], tau))
    handle = network.register_forward_pre_hook(
        lambda module, args, kwargs: (args, {**kwargs, "timestep": tau}), with_kwargs=True
    )
    assert torch.equal(network(images[:2], 440).sample, expected)
    handle.remove()
    assert torch.equal(network(images[:2], tau, nominal=440).sample, expected)
    assert not torch.equal(network(images[:2], tau).sample, expected)


def test_diffusers_saves_and_loads_all_of_it(
    network: MultistageModel, images: Tensor, tmp_path: Path
) -> None:
    network.save_pretrained(tmp_path)
    loaded = type(network).from_pretrained(tmp_path)
    assert tuple(loaded.config.boundaries) == BOUNDARIES
    assert torch.equal(loaded(images, TIMES).sample, network(images, TIMES).sample)


def test_an_unmodified_pipeline_asks_each_decoder_in_turn(network: MultistageModel) -> None:
    calls: list[int] = []
    for k, decoder in enumerate(network.decoders):
        decoder.register_forward_hook(lambda *_, k=k: calls.append(k))
    pipeline = DDIMPipeline(network, DDIMScheduler())
    pipeline.set_progress_bar_config(disable=True)
    images = pipeline(batch_size=2, num_inference_steps=10, output_type="np").images
    assert images.shape == (2, 8, 8, 1)
    assert calls == [2, 2, 2, 1, 1, 0, 0, 0, 0, 0]  # t = 900, 800 ... 0


def test_a_decoder_may_have_any_widths() -> None:
    sizes = [sum(p.numel() for p in decoder.parameters()) for decoder in unet().decoders]
    assert sizes[0] > sizes[1] > 5 * sizes[2]
    assert unet().decoders[2].up_blocks[1].resnets[1].in_channels == 5 + 16
