"""tau by the distance of images to the data's: closer where it can be told, untuned elsewhere."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from stepsearch.config import parse
from stepsearch.diffusion.noise import VPConfig
from stepsearch.errors import UserError
from stepsearch.evaluation import frechet_distance, statistics
from stepsearch.sampling.timetuner import (
    EndToEndConfig,
    Network,
    SolverConfig,
    Tuned,
    evaluate,
    tune_end_to_end,
)
from stepsearch.sampling.timetuner.draw import sample
from stepsearch.sampling.timetuner.end_to_end import distance_of_a_batch, told
from stepsearch.sampling.timetuner.shifts import ShiftedTimes
from tests.sampling.timetuner.conftest import SOLVERS
from tests.sampling.timetuner.exact import DIGITS, Continuous, digits, gaussian, rippled

FIVE = torch.tensor([1, 0.8002, 0.6004, 0.4006, 0.2008, 0.001], dtype=torch.float64)
TEN = torch.linspace(1, 1e-3, 11, dtype=torch.float64)
SMALL: dict[str, Any] = {
    "iterations": 4, "batch_size": 8, "real": 64, "held_out": 64, "spread": 0.1, "wave": 0.0
}  # fmt: skip


def drawn(network: Network, tau: Tensor, n: int, d: int) -> Tensor:
    noise = torch.randn((n, d), generator=torch.Generator().manual_seed(99)).double()
    with torch.no_grad():
        return sample(network, tau, noise, None)


def test_a_gaussian_gets_its_scale_back() -> None:
    """Ten steps of DDIM shrink data N(0, 1/16) by 42 %, most of it in the last one."""
    random = torch.Generator().manual_seed(0)
    data = 0.25 * torch.randn((4096, 4), generator=random).double()
    network = Network(gaussian(1 / 16), Continuous(TEN))
    tuned = tune_end_to_end(network, data, EndToEndConfig(tune_last=True, wave=0))
    before, after = (float(drawn(network, t, 4096, 4).std()) for t in (TEN[:-1], tuned.tau))
    assert before == pytest.approx(0.58 * 0.25, rel=0.02)
    assert after == pytest.approx(0.25, rel=0.03)
    assert tuned.distance is not None
    assert tuned.distance[1] < 0.05 * tuned.distance[0]


def test_the_slope_is_that_of_the_mean_over_a_ripple() -> None:
    """By differences over whole periods; at one tau it is that of the ripple."""
    data = 0.25 * torch.randn((2048, 4), generator=torch.Generator().manual_seed(0)).double()
    solver = SolverConfig(num_steps=4).build(VPConfig().build().scheduler_config(), "epsilon")
    network, slot, period = Network(rippled(0.02), solver), 2, 2 * math.pi
    waves, plain = (EndToEndConfig(spread=0, wave=w, batch_size=256) for w in (period, 0))
    at = ShiftedTimes(solver.times.tolist(), 0, solver.top)
    room = torch.tensor(at.down).float()

    def distance(tau: Tensor, config: EndToEndConfig) -> Tensor:
        times = (told(tau, room, at, i, config) for i in range(16))
        each = [distance_of_a_batch(network, t, data, i, config) for i, t in enumerate(times)]
        return torch.stack(each).mean()

    def slope(tau: Tensor, config: EndToEndConfig) -> float:
        tau = tau.clone().requires_grad_()
        return float(torch.autograd.grad(distance(tau, config), tau)[0][slot])

    one = torch.zeros(4).index_fill(0, torch.tensor(slot), period / 2)
    for shift in (0.0, 0.3, 0.6):
        tau = solver.times + shift * one
        with torch.no_grad():
            expected = float(distance(tau + one, plain) - distance(tau - one, plain)) / period
        assert slope(tau, waves) == pytest.approx(expected, rel=0.2)
        assert abs(slope(tau, plain)) > 4 * abs(expected)


def test_digits_come_closer_by_a_distance_that_was_not_lowered() -> None:
    """The optimal denoiser in five steps; means and covariances of the pixels judge."""
    network = Network(digits, Continuous(FIVE))
    tuned = tune_end_to_end(network, DIGITS, EndToEndConfig(iterations=60, wave=0))
    real = statistics(DIGITS)
    before, after = (
        frechet_distance(*real, *statistics(drawn(network, t, 1024, 64)))
        for t in (FIVE[:-1], tuned.tau)
    )
    assert after < 0.8 * before
    assert tuned.tau[-1] == FIVE[-2].float()
    assert tuned.iterations == (60, 60, 60, 60, 0)


def test_times_that_change_nothing_stay_as_they_are_to_the_last_bit() -> None:
    deaf = Network(lambda x, t, nominal: x + 0 * t.mean(), Continuous(FIVE))
    tuned = tune_end_to_end(deaf, DIGITS, EndToEndConfig(**SMALL))
    assert torch.equal(tuned.tau, FIVE[:-1])
    assert tuned.iterations == (0,) * 5
    assert tuned.loss == tuned.loss_untuned
    assert tuned.distance is not None
    assert tuned.distance[0] == tuned.distance[1]


def test_what_is_not_finite_leaves_the_times_untuned() -> None:
    broken = Network(lambda x, t, nominal: x * t.mean() * float("nan"), Continuous(FIVE))
    tuned = tune_end_to_end(broken, DIGITS, EndToEndConfig(**SMALL))
    assert torch.equal(tuned.tau, FIVE[:-1])


def tuned_unet(denoiser: Any, kind: Any) -> Tuned:
    sampler = SolverConfig(kind=kind, num_steps=4, trajectory=SOLVERS[kind])
    network = Network(
        evaluate(denoiser), sampler.build(VPConfig().build().scheduler_config(), "epsilon")
    )
    images = DIGITS.float().view(-1, 1, 8, 8)
    return tune_end_to_end(network, images, EndToEndConfig(**SMALL))


@pytest.mark.parametrize("kind", SOLVERS)
def test_every_sampler_brings_a_gaussian_closer(kind: Any) -> None:
    """Heun's corrector and the predictor after it, at one level, are told times far apart."""
    data = 0.25 * torch.randn((1024, 1, 2, 2), generator=torch.Generator().manual_seed(0))
    sampler = SolverConfig(kind=kind, num_steps=4, trajectory=SOLVERS[kind])
    solver = sampler.build(VPConfig().build().scheduler_config(), "epsilon")
    config = EndToEndConfig(iterations=40, lr=0.1, real=256, held_out=512, wave=0)
    before, after = tune_end_to_end(Network(rippled(0), solver), data, config).distance or (0, 0)
    most = {"ddim": 0.95, "ddpm": 0.98}  # the last slot matters most, and the noise of each step
    assert after < most.get(kind, 0.1) * before


@pytest.mark.parametrize("kind", SOLVERS)
def test_the_network_stays_as_it_was_and_tau_in_its_range(kind: str, denoiser: Any) -> None:
    before = {name: value.clone() for name, value in denoiser.state_dict().items()}
    tuned = tuned_unet(denoiser, kind)
    assert len(tuned.tau) == len(tuned.untuned) == len(tuned.loss)
    assert ((tuned.tau >= 0) & (tuned.tau <= 999)).all()
    assert tuned.tau[-1] == tuned.untuned[-1]
    assert all(torch.equal(before[k], v) for k, v in denoiser.state_dict().items())
    assert all(p.grad is None for p in denoiser.parameters())


def test_tau_depends_on_the_seed_alone_and_not_on_what_is_remembered() -> None:
    network = Network(digits, Continuous(FIVE))

    def tau(**fields: Any) -> Tensor:
        return tune_end_to_end(network, DIGITS, EndToEndConfig(**SMALL | fields)).tau

    first = tau()
    assert not torch.equal(first, FIVE[:-1])
    assert torch.equal(tau(), first)
    torch.testing.assert_close(tau(recompute=True), first, rtol=1e-5, atol=1e-5)
    assert not torch.equal(tau(seed=1), first)


def test_the_last_slot_moves_only_if_asked() -> None:
    network = Network(digits, Continuous(FIVE))
    for tune_last in (False, True):
        config = EndToEndConfig(**SMALL, tune_last=tune_last)
        assert (tune_end_to_end(network, DIGITS, config).tau[-1] != FIVE[-2].float()) == tune_last


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("iterations", 0, "iterations must be at least 1, got 0"),
        ("lr", 0, "lr must be greater than 0, got 0"),
        ("spread", -1, "spread must be at least 0, got -1"),
        ("wave", -1, "wave must be at least 0, got -1"),
        ("r", (0.1, 1), "r must be a range with 0, untuned, inside, got (0.1, 1)"),
        ("batch_size", 1, "batch_size must be at least 2, got 1"),
        ("real", 1, "real must be at least 2, got 1"),
        ("held_out", 1, "held_out must be at least 2, got 1"),
        ("tune_last", 7, "tune_last must be true or false, got 7"),
        ("recompute", 7, "recompute must be true or false, got 7"),
        ("seed", -1, "seed must be at least 0, got -1"),
    ],
)
def test_bad_settings_are_refused_in_one_line(field: str, value: Any, message: str) -> None:
    with pytest.raises(UserError) as error:
        parse(EndToEndConfig, {field: value}, "end_to_end")
    assert str(error.value) == f"end_to_end.{message}"


def test_one_image_is_refused() -> None:
    network = Network(digits, Continuous(FIVE))
    with pytest.raises(UserError, match="images must be at least two to tune on, got 1"):
        tune_end_to_end(network, DIGITS[:1], EndToEndConfig())
