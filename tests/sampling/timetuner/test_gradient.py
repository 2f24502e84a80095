"""Eqs. 9 and 11 by Adam: never worse where it looks, the network as it was, the seed's alone."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from stepsearch.config import parse
from stepsearch.diffusion.noise import VPConfig
from stepsearch.errors import UserError
from stepsearch.sampling.timetuner import (
    GradientConfig,
    Network,
    SolverConfig,
    evaluate,
    losses,
    tune,
)
from stepsearch.sampling.timetuner.gradient import Tuned
from tests.sampling.timetuner.conftest import SOLVERS
from tests.sampling.timetuner.exact import DIGITS, Continuous, digits, rippled, sigma

GRID = torch.tensor([1, 0.8002, 0.6004, 0.4006, 0.2008, 0.001], dtype=torch.float64)
SMALL: dict[str, Any] = {
    "iterations": 6, "check_every": 3, "batch_size": 4, "batches": 2, "held_out": 1, "wave": 0
}  # fmt: skip


@pytest.mark.parametrize("strategy", ["sequential", "parallel"])
def test_digits_are_tuned_to_the_reference_minimum(strategy: Any) -> None:
    """Other images and noise than the reference's: its ratios to some 0.01."""
    network = Network(digits, Continuous(GRID))
    tuned = tune(network, DIGITS, GradientConfig(strategy=strategy, batches=8, patience=2, wave=0))
    ratios = tuned.tau / GRID[:-1]
    assert ratios[[0, 1, 4]].tolist() == pytest.approx([1, 1, 1], abs=3e-3)
    assert 0.98 < ratios[2] < 0.995
    assert 0.92 < ratios[3] < 0.975
    assert tuned.loss[3] < 0.98 * tuned.loss_untuned[3]
    assert tuned.iterations[4] == 0


def test_a_slot_that_gains_nothing_stays_at_its_time_to_the_last_bit() -> None:
    """Data of one point, whose noise stays as it is over a step near the nominal time alone, which
    Adam's first step leaves behind."""
    grid = torch.linspace(0.6, 0.2, 4, dtype=torch.float64)
    told: list[float] = []

    def point(x: Tensor, t: Tensor, nominal: Tensor) -> Tensor:
        told.append(float(t.detach() / nominal))
        noise: Tensor = x / sigma(1.001 * t)
        return noise

    config = GradientConfig(
        batches=1, held_out=1, lr=0.05, check_every=1, patience=2, tune_last=True, wave=0
    )
    tuned = tune(Network(point, Continuous(grid)), torch.zeros(8, 4).double(), config)
    assert tuned.iterations == (2, 2, 2)
    assert max(abs(ratio - 1) for ratio in told) > 0.04
    assert torch.equal(tuned.tau, grid[:-1])
    assert tuned.loss == tuned.loss_untuned


def test_ripples_do_not_hold_tau_where_it_is() -> None:
    data = 0.25 * torch.randn((512, 4), generator=torch.Generator().manual_seed(0)).double()
    solver = SolverConfig(num_steps=4).build(VPConfig().build().scheduler_config(), "epsilon")

    def tau(by: float, wave: float) -> list[float]:
        config = GradientConfig(wave=wave, patience=20)
        return tune(Network(rippled(by), solver), data, config).tau.tolist()

    smooth, held, found = tau(0, 0), tau(0.02, 0), tau(0.02, 2 * math.pi)
    assert smooth[1:3] == pytest.approx([829, 570], abs=2)
    assert held[1:3] == pytest.approx([749, 499], abs=math.pi)
    assert found[1:3] == pytest.approx(smooth[1:3], abs=25)


def test_the_last_slot_stays_unless_it_is_asked_for() -> None:
    network = Network(digits, Continuous(GRID))
    kept, moved = (
        tune(network, DIGITS, GradientConfig(**SMALL, tune_last=last)) for last in (False, True)
    )
    assert (kept.iterations[-1], moved.iterations[-1]) == (0, 6)
    assert kept.tau[-1] == GRID[-2] != moved.tau[-1]


def test_a_loss_that_is_not_finite_leaves_every_slot_untuned() -> None:
    broken = Network(lambda x, t, nominal: x * t * float("nan"), Continuous(GRID))
    tuned = tune(broken, DIGITS, GradientConfig(**SMALL))
    assert torch.equal(tuned.tau, GRID[:-1])


def tuned_unet(denoiser: Any, kind: Any, target: str = "epsilon", **fields: Any) -> Tuned:
    sampler = SolverConfig(kind=kind, num_steps=4, trajectory=SOLVERS[kind])
    solver = sampler.build(VPConfig().build().scheduler_config(), target)
    scope = fields.pop("scope", "embedding")
    images = DIGITS.float().view(-1, 1, 8, 8)
    network = Network(evaluate(denoiser), solver, scope)
    return tune(network, images, GradientConfig(**SMALL | fields))


@pytest.mark.parametrize("strategy", ["sequential", "parallel"])
@pytest.mark.parametrize("kind", SOLVERS)
def test_every_sampler_is_tuned_by_both_strategies(
    kind: str, strategy: str, denoiser: Any
) -> None:
    tuned = tuned_unet(denoiser, kind, strategy=strategy, lr=0.02, tune_last=True)
    assert tuned.tau.dtype == torch.float32
    assert len(tuned.tau) == (7 if kind == "heun" else 4)
    assert tuned.tau.isfinite().all()
    assert 0 <= tuned.tau.min() <= tuned.tau.max() <= 999
    assert (tuned.tau != tuned.untuned).any()
    for after, before in zip(tuned.loss, tuned.loss_untuned, strict=True):
        assert after <= before


@pytest.mark.parametrize("target", ["v_prediction", "sample"])
def test_the_full_scope_is_another_method_but_for_eps(target: str, denoiser: Any) -> None:
    embedding = tuned_unet(denoiser, "ddim", target, lr=0.02)
    full = tuned_unet(denoiser, "ddim", target, lr=0.02, scope="full")
    assert full.loss_untuned[0] == pytest.approx(embedding.loss_untuned[0], rel=1e-4)
    assert not torch.equal(full.tau, embedding.tau)
    eps = [tuned_unet(denoiser, "ddim", lr=0.02, scope=s).tau for s in ("embedding", "full")]
    assert torch.equal(*eps)


def test_the_network_is_left_as_it_was_and_the_seed_decides(denoiser: Any) -> None:
    weights = {name: value.clone() for name, value in denoiser.state_dict().items()}
    first, again, other = (tuned_unet(denoiser, "ddpm", lr=0.02, seed=s) for s in (0, 0, 1))
    for name, value in denoiser.state_dict().items():
        assert torch.equal(value, weights[name])
    assert all(parameter.grad is None for parameter in denoiser.parameters())
    assert torch.equal(first.tau, again.tau)
    assert first.loss_untuned != other.loss_untuned


def test_the_losses_of_times_are_those_that_the_tuning_ends_with(denoiser: Any) -> None:
    """Of steps with noise, too."""
    for kind in ("ddim", "ddpm"):
        sampler = SolverConfig(kind=kind, num_steps=4)
        network = Network(
            evaluate(denoiser), sampler.build(VPConfig().build().scheduler_config(), "epsilon")
        )
        images, config = DIGITS.float().view(-1, 1, 8, 8), GradientConfig(**SMALL, lr=0.05)
        tuned = tune(network, images, config)
        assert tuned.loss != tuned.loss_untuned
        assert losses(network, tuned.tau, images, config) == pytest.approx(tuned.loss, rel=1e-5)
        other = losses(network, tuned.tau, images, config.model_copy(update={"seed": 1}))
        assert other != pytest.approx(tuned.loss, rel=1e-5)


def test_no_images_are_refused() -> None:
    network = Network(digits, Continuous(GRID))
    with pytest.raises(UserError, match=r"^images must be at least one to tune on, got 0$"):
        tune(network, DIGITS[:0], GradientConfig())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"strategy": "random"}, "strategy must be one of 'sequential' or 'parallel'"),
        ({"tune_last": "maybe"}, "tune_last must be true or false, got 'maybe'"),
        ({"iterations": 0}, "iterations must be at least 1, got 0"),
        ({"lr": 0}, "lr must be greater than 0, got 0"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"batches": 0}, "batches must be at least 1, got 0"),
        ({"held_out": 0}, "held_out must be at least 1, got 0"),
        ({"check_every": 0}, "check_every must be at least 1, got 0"),
        ({"patience": 0}, "patience must be at least 1, got 0"),
        ({"wave": -1}, "wave must be at least 0, got -1"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
        ({"rate": 1}, "rate is not a known key"),
    ],
)
def test_bad_fields_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        parse(GradientConfig, fields, "gradient")
    assert str(error.value).startswith(f"gradient.{message}")
