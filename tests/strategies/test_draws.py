"""The stratified uniform and the inverse CDF."""

import numpy as np
import pytest
import torch

from stepsearch.strategies.draws import InverseCDF, stratified_uniform


@pytest.mark.parametrize("n", [1, 2, 5, 64])
def test_every_stratum_holds_exactly_one_uniform(n, generator):
    u = stratified_uniform(n, generator)
    assert u.dtype == torch.float64
    assert sorted((u * n).floor().int().tolist()) == list(range(n))


def test_a_stratified_uniform_spreads_a_uniform_density_evenly(generator):
    t = InverseCDF(np.full(1000, 1e-3), stratify=True).draw(100, generator)
    assert sorted((t // 10).tolist()) == list(range(100))


def test_stratifying_lowers_the_variance_of_a_batch_mean(generator):
    p = np.linspace(1, 3, 100)
    p /= p.sum()
    stratified, independent = (
        torch.stack([cdf.draw(16, generator).double().mean() for _ in range(500)]).var()
        for cdf in (InverseCDF(p, stratify=True), InverseCDF(p, stratify=False))
    )
    assert stratified < independent / 10


def test_timesteps_without_probability_are_never_drawn():
    inverse_cdf = InverseCDF(np.array([0, 0.5, 0, 0.5, 0]), stratify=False)
    u = torch.tensor([0, 0.4, 0.5, 0.9, 1 - 2**-53], dtype=torch.float64)
    assert inverse_cdf.at(u).tolist() == [1, 1, 3, 3, 3]


def test_a_density_whose_sum_is_rounded_still_ends_at_its_last_timestep():
    p = np.full(10, 0.1)  # its running sum ends at 1 - 1.1e-16
    u = torch.tensor([1 - 2**-53], dtype=torch.float64)
    assert InverseCDF(p, stratify=False).at(u).tolist() == [9]
