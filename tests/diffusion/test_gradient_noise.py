"""The gradients' norm and variance by noise level, against gradients image by image."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from stepsearch.diffusion.datasets import DigitsConfig
from stepsearch.diffusion.denoisers import UNetConfig
from stepsearch.diffusion.gradient_noise import gradient_noise
from stepsearch.diffusion.loss import BINS, log_snr_bins
from stepsearch.diffusion.noise import VPConfig
from stepsearch.diffusion.training import Training, TrainingConfig
from stepsearch.strategies import UniformConfig


@pytest.fixture
def training() -> Training:
    data, process = DigitsConfig().load(), VPConfig().build()
    return Training(
        TrainingConfig(batch_size=16, warmup_steps=0),
        UNetConfig(channels=(8, 16), dropout=0.1).build(data.shape, 0),
        process,
        UniformConfig().build(process.alpha_bar),
        data.train,
        budget=160,
        seed=0,
    )


def test_bins_part_the_timesteps_by_log_snr(training: Training) -> None:
    bins, centres = log_snr_bins(training.process.log_snr)
    assert set(bins) == set(range(BINS))
    assert np.all(np.diff(bins) <= 0)  # t = 0 is the least noisy
    width = centres[1] - centres[0]
    assert np.all(np.abs(training.process.log_snr - centres[bins]) <= width / 2 + 1e-9)


def test_norm_and_variance_are_those_of_the_images_gradients(training: Training) -> None:
    """With as many images as groups a group is an image: the sample variance itself."""
    x0, bins = DigitsConfig().load().train[:4], torch.zeros(1000, dtype=torch.int64)
    found = gradient_noise(training._evaluator, bins, 1, x0, torch.Generator().manual_seed(5))
    draws = torch.Generator().manual_seed(5)
    t = torch.randint(1000, (4,), generator=draws)
    noise = torch.randn(x0.shape, generator=draws)
    each = torch.stack(
        [training._evaluator.gradient(x0[[i]], t[[i]], noise[[i]]) for i in range(4)]
    )
    assert found.norm[0] == pytest.approx(float(each.mean(0).norm()), rel=1e-5)
    assert found.variance[0] == pytest.approx(float(each.var(0).sum()), rel=1e-4)


def test_the_estimate_of_the_variance_does_not_depend_on_the_groups(training: Training) -> None:
    """Of a group's mean it is smaller by the group's size, which is taken into account."""
    images, bins = DigitsConfig().load().train, torch.zeros(1000, dtype=torch.int64)
    few, many = (
        np.mean(
            [
                gradient_noise(
                    training._evaluator, bins, 1, images[:n], torch.Generator().manual_seed(s)
                ).variance
                for s in range(12)
            ]
        )
        for n in (4, 32)
    )
    assert few == pytest.approx(many, rel=0.5)


def test_a_bin_without_timesteps_is_not_known(training: Training) -> None:
    x0, bins = DigitsConfig().load().train[:4], torch.ones(1000, dtype=torch.int64)
    found = gradient_noise(training._evaluator, bins, 2, x0, torch.Generator())
    assert np.isnan(found.norm[0])
    assert np.isnan(found.variance[0])
    assert found.norm[1] > 0


def test_looking_changes_nothing_and_sees_the_same_again(training: Training) -> None:
    training.run(32)
    first = training.gradient_noise(4)
    again = training.gradient_noise(4)
    assert np.array_equal(first.norm, again.norm)
    assert len(first.variance) == BINS
    training.run(64)
    looked = torch.cat([p.flatten() for p in training.denoiser.parameters()])
    plain = Training(
        training.config,
        UNetConfig(channels=(8, 16), dropout=0.1).build((1, 8, 8), 0),
        training.process,
        UniformConfig().build(training.process.alpha_bar),
        DigitsConfig().load().train,
        budget=160,
        seed=0,
    )
    plain.run(64)
    assert torch.equal(looked, torch.cat([p.flatten() for p in plain.denoiser.parameters()]))
