"""Dropout: the same again with the same seed, also after a checkpoint."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from stepsearch.diffusion.datasets import DigitsConfig
from stepsearch.diffusion.denoisers import UNetConfig
from stepsearch.diffusion.noise import VPConfig
from stepsearch.diffusion.training import Training, TrainingConfig
from stepsearch.strategies import UniformConfig


def training(seed: int = 0, dropout: float = 0.3, slices: int = 1) -> Training:
    data, process = DigitsConfig().load(), VPConfig().build()
    return Training(
        TrainingConfig(batch_size=16, warmup_steps=0),
        UNetConfig(channels=(8, 16), dropout=dropout).build(data.shape, 0),
        process,
        UniformConfig().build(process.alpha_bar),
        data.train,
        budget=160,
        seed=seed,
        slices=slices,
    )


def weights(of: Training) -> torch.Tensor:
    return torch.cat([parameter.flatten() for parameter in of.denoiser.parameters()])


def trained(until: int = 160, **changes: Any) -> Training:
    run = training(**changes)
    run.run(until)
    return run


def test_the_same_seed_drops_the_same() -> None:
    torch.manual_seed(1)
    first = weights(trained())
    torch.manual_seed(2)
    assert torch.equal(weights(trained()), first)
    assert not torch.equal(weights(trained(dropout=0.0)), first)


def test_a_resumed_training_drops_what_it_would_have_dropped() -> None:
    whole, half = trained(), trained(until=80)
    resumed = training()
    resumed.load_state_dict(half.state_dict())
    resumed.run(160)
    assert torch.equal(weights(resumed), weights(whole))


def test_another_number_of_slices_drops_other_things_and_changes_nothing_else() -> None:
    def losses(dropout: float) -> list[float]:
        return [training(dropout=dropout, slices=n).run(16).mean_loss for n in (1, 2)]

    one, two = losses(0.0)
    assert two == pytest.approx(one, rel=1e-5)
    one, two = losses(0.3)
    assert two != pytest.approx(one, rel=1e-5)


def test_a_training_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    trained(until=16)
    assert torch.equal(torch.rand(4), expected)


def test_steps_drop_different_things() -> None:
    run = training()
    drawn = []
    for step in range(3):
        with run._dropout.at(step):
            drawn.append(torch.rand(8))
    assert not torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[1], drawn[2])
