"""diffusers' transformer without classes: the same network, called as by unmodified pipelines."""

from pathlib import Path

import pytest
import torch
from diffusers import DDIMPipeline, DDIMScheduler, DiTTransformer2DModel
from torch import Tensor

from stepsearch.diffusion.denoisers import DiTConfig
from stepsearch.diffusion.denoisers.unconditional_dit import UnconditionalDiT

TIMES = torch.tensor([0, 441, 999])


def randomised(network: torch.nn.Module) -> torch.nn.Module:
    """With weights that a new network has not: it answers 0."""
    generator = torch.Generator().manual_seed(1)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2, generator=generator)
    return network.eval()


@pytest.fixture
def network() -> torch.nn.Module:
    return randomised(DiTConfig(layers=2).build((1, 8, 8), seed=0))


@pytest.fixture
def images() -> Tensor:
    return torch.randn(len(TIMES), 1, 8, 8, generator=torch.Generator().manual_seed(0))


def test_diffusers_class_loads_the_folder_and_answers_alike(
    network: torch.nn.Module, images: Tensor, tmp_path: Path
) -> None:
    network.save_pretrained(tmp_path)
    theirs, info = DiTTransformer2DModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values())
    expected = theirs(images, TIMES, torch.zeros(3, dtype=torch.int64)).sample
    assert torch.equal(network(images, TIMES).sample, expected)
    assert expected.std() > 0.1


def test_diffusers_class_alone_cannot_be_called_without_classes(images: Tensor) -> None:
    theirs = DiTTransformer2DModel(2, 16, 1, num_layers=1, sample_size=8, num_embeds_ada_norm=1)
    with pytest.raises(TypeError):
        theirs.eval()(images, TIMES)


def test_a_network_with_classes_is_asked_for_the_null_one(images: Tensor) -> None:
    fields = {"num_attention_heads": 2, "attention_head_dim": 16, "in_channels": 1}
    fields |= {"num_layers": 1, "sample_size": 8, "num_embeds_ada_norm": 10}
    ours, theirs = UnconditionalDiT(**fields), DiTTransformer2DModel(**fields)
    theirs.load_state_dict(randomised(ours).state_dict())
    theirs.eval()
    labels = torch.full((3,), 10)
    assert torch.equal(ours(images, TIMES).sample, theirs(images, TIMES, labels).sample)
    assert not torch.equal(ours(images, TIMES).sample, theirs(images, TIMES, labels - 1).sample)


def test_a_network_with_classes_is_told_them_and_nothing_drops_them(images: Tensor) -> None:
    """Also in training, where diffusers' class drops a tenth, block by block."""
    network = randomised(DiTConfig(layers=2).build((1, 8, 8), seed=0, classes=10))
    theirs = DiTTransformer2DModel.from_config(network.config)
    theirs.load_state_dict(network.state_dict())
    labels = torch.tensor([0, 7, 10])
    expected = theirs.eval()(images, TIMES, labels).sample
    state = torch.get_rng_state()
    for _ in range(20):
        assert torch.equal(network.train()(images, TIMES, class_labels=labels).sample, expected)
    assert torch.equal(torch.get_rng_state(), state)
    null = network(images, TIMES).sample
    assert torch.equal(null[2], expected[2])
    assert not torch.allclose(null[:2], expected[:2])
    (output,) = network(images, TIMES, labels, return_dict=False)
    assert torch.equal(output, expected)


def test_a_time_may_be_a_number_a_fraction_or_one_an_image(
    network: torch.nn.Module, images: Tensor
) -> None:
    expected = network(images, torch.full((3,), 441)).sample
    for time in (441, torch.tensor(441), torch.tensor(441.0), torch.full((3,), 441.0)):
        torch.testing.assert_close(network(images, time).sample, expected)
    assert not torch.allclose(network(images, 441.5).sample, expected)
    (output,) = network(images, 441, return_dict=False)
    assert torch.equal(output, expected)


def test_training_drops_no_class_and_draws_nothing(
    network: torch.nn.Module, images: Tensor
) -> None:
    state = torch.get_rng_state()
    assert torch.equal(network.train()(images, TIMES).sample, network.eval()(images, TIMES).sample)
    assert torch.equal(torch.get_rng_state(), state)


def test_dropout_is_that_of_the_blocks_and_of_training_only(images: Tensor) -> None:
    network = randomised(DiTConfig(layers=1, dropout=0.5).build((1, 8, 8), seed=0))
    expected = network(images, TIMES).sample
    assert torch.equal(network(images, TIMES).sample, expected)
    assert not torch.equal(network.train()(images, TIMES).sample, expected)


def test_a_new_network_is_the_papers_adaln_zero(images: Tensor) -> None:
    """Every block passes its input on, the output is 0, and its last layer learns first."""
    network = DiTConfig(layers=2).build((1, 8, 8), seed=0)
    tokens = network.pos_embed(images)
    block = network.transformer_blocks[0]
    labels = torch.zeros(3, dtype=torch.int64)
    assert torch.equal(block(tokens, timestep=TIMES, class_labels=labels), tokens)
    output = network(images, TIMES).sample
    assert not output.any()
    (output - images).square().sum().backward()
    learns = {name for name, p in network.named_parameters() if p.grad.any()}
    assert learns == {"proj_out_2.weight", "proj_out_2.bias"}
    query, time = block.attn1.to_q.weight, block.norm1.emb.timestep_embedder.linear_1.weight
    assert query.std().item() == pytest.approx((2 / 64) ** 0.5, rel=0.05)
    assert time.std().item() == pytest.approx(0.02, rel=0.05)


def test_an_unmodified_pipeline_draws_images(network: torch.nn.Module) -> None:
    pipeline = DDIMPipeline(network, DDIMScheduler())
    pipeline.set_progress_bar_config(disable=True)
    images = pipeline(batch_size=2, num_inference_steps=5, output_type="np").images
    assert images.shape == (2, 8, 8, 1)
    assert images.std() > 0.1
