"""What a network is told, and networks that cannot be told."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import UNet2DModel
from torch import Tensor

from stepsearch.diffusion.multistage.networks import MultistageUNet
from stepsearch.diffusion.noise import VPConfig
from stepsearch.errors import UserError
from stepsearch.sampling.timetuner import (
    GradientConfig,
    Network,
    SolverConfig,
    check_times,
    draw,
    evaluate,
    guided,
    tune,
)
from stepsearch.sampling.timetuner.losses import batch, loss

NOISE = VPConfig().build().scheduler_config()
SHAPE = (1, 8, 8)


def unet(**changes: Any) -> UNet2DModel:
    torch.manual_seed(0)
    return UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=8,
        down_block_types=("DownBlock2D",) * 2,
        up_block_types=("UpBlock2D",) * 2,
        **changes,
    ).eval()


def x_T(n: int = 2) -> Tensor:
    return torch.randn(n, *SHAPE, generator=torch.Generator().manual_seed(0))


def test_tau_beyond_a_boundary_is_told_to_the_decoder_of_the_nominal_time() -> None:
    torch.manual_seed(0)
    denoiser = MultistageUNet(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        norm_num_groups=8,
        block_out_channels=(8, 16),
        decoder_channels=((8, 16), (8, 16)),
        boundaries=(499.5,),
    ).eval()
    network = Network(evaluate(denoiser), SolverConfig(num_steps=2).build(NOISE, "epsilon"))
    tau, nominal = torch.tensor(499.0), network.solver.times[0]
    assert nominal > 499.5
    with torch.no_grad():
        output = network.output(0, x_T(), tau)
        assert torch.equal(output, denoiser(x_T(), tau, nominal=nominal).sample)
        assert not torch.equal(output, denoiser(x_T(), tau).sample)


def test_the_gradient_of_tau_is_that_of_differences() -> None:
    """Through the time embedding of one evaluation and the input of the next one."""
    solver = SolverConfig(num_steps=4).build(NOISE, "epsilon")
    network = Network(evaluate(unet().double()), solver)
    before = batch(network, solver.start(x_T().double()), 0, (0,))
    tau = torch.tensor(900.0, requires_grad=True)
    (slope,) = torch.autograd.grad(loss(network, before, tau), tau)
    with torch.no_grad():
        ends = [float(loss(network, before, torch.tensor(900.0 + d))) for d in (-0.1, 0.1)]
    assert abs(float(slope)) > 1e-4
    assert float(slope) == pytest.approx((ends[1] - ends[0]) / 0.2, rel=0.02)


def test_a_network_with_a_learned_embedding_is_refused() -> None:
    learned = unet(time_embedding_type="learned", num_train_timesteps=1000)
    message = r"^denoiser must take timesteps between the integers, and a learned time embedding"
    with torch.no_grad(), pytest.raises(UserError, match=message):
        check_times(evaluate(learned), x_T(), 1000)


def rounded(dtype: torch.dtype) -> Any:
    network = unet()
    return lambda x, t, nominal: network(x, t.to(dtype)).sample


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.int64])
def test_a_network_that_rounds_its_timesteps_is_refused(dtype: torch.dtype) -> None:
    """bf16 has steps of 4 around t = 900; a Python float is cast to an integer by UNet2DModel."""
    message = r"^denoiser must tell timesteps that differ by 0.5 apart, got the same output at t ="
    with torch.no_grad(), pytest.raises(UserError, match=message):
        check_times(rounded(dtype), x_T(), 1000)


def test_other_networks_pass_and_a_bf16_one_is_told_float32() -> None:
    with torch.no_grad():
        check_times(evaluate(unet()), x_T(), 1000)
    half = unet().to(torch.bfloat16)
    with torch.no_grad():
        check_times(lambda x, t, nominal: half(x.bfloat16(), t).sample, x_T(), 1000)


def test_guidance_tells_both_halves_the_same_time_and_tunes_for_its_scale() -> None:
    denoiser = unet(num_class_embeds=3)
    labels, none = torch.tensor([0, 1]), torch.tensor([2, 2])
    run = guided(denoiser, 3.0, {"class_labels": labels}, {"class_labels": none})
    tau = torch.tensor(700.3)
    with torch.no_grad():
        plain = denoiser(x_T(), tau, class_labels=none).sample
        conditioned = denoiser(x_T(), tau, class_labels=labels).sample
        expected = plain + 3 * (conditioned - plain)
        torch.testing.assert_close(run(x_T(), tau, tau), expected, rtol=0, atol=1e-5)
    solver = SolverConfig(num_steps=2).build(NOISE, "epsilon")
    images = torch.rand(8, *SHAPE, generator=torch.Generator().manual_seed(1)) * 2 - 1
    config = GradientConfig(batch_size=2, batches=1, held_out=1, iterations=4, lr=0.05)
    taus = []
    for scale in (1.0, 7.0):
        conditions = {"class_labels": labels}, {"class_labels": none}
        network = Network(guided(denoiser, scale, *conditions), solver)
        taus.append(tune(network, images, config))
    assert taus[0].loss_untuned != taus[1].loss_untuned


@pytest.mark.parametrize(
    ("tau", "message"),
    [
        ([999.0, 499.0, 3.0], r"^tau must have nfe = 2 numbers, got \[3\]$"),
        ([999.0, float("nan")], r"^tau must be finite, got \[999.0, nan\]$"),
        ([float("inf"), 1.0], r"^tau must be finite, got \[inf, 1.0\]$"),
    ],
)
def test_a_tau_that_does_not_fit_is_refused(tau: list[float], message: str) -> None:
    network = Network(evaluate(unet()), SolverConfig(num_steps=2).build(NOISE, "epsilon"))
    with pytest.raises(UserError, match=message):
        draw(network, torch.tensor(tau), 1, shape=SHAPE, seed=0)
