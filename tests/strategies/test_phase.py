"""Strategies that follow each other: phases and ramps."""

import numpy as np
import pytest
import torch

from stepsearch.errors import UserError
from stepsearch.strategies import strategy

SPEED, UNIFORM = {"strategy": {"kind": "speed"}}, {"strategy": {"kind": "uniform"}}


def speed_then_uniform(images=200):
    return strategy("phase", phases=[SPEED | {"images": images}, UNIFORM])


def test_the_next_strategy_begins_with_the_first_batch_after_its_time(alpha_bar, generator):
    built = speed_then_uniform(200).build(alpha_bar())
    speed, uniform = (strategy(kind).build(alpha_bar()) for kind in ("speed", "uniform"))
    for images, now in [(0, speed), (64, speed), (128, speed), (192, speed), (256, uniform)]:
        assert built.images_seen == images
        t = built.draw(64, generator)
        np.testing.assert_array_equal(built.p, now.p)
        torch.testing.assert_close(built.weights(t), now.weights(t))
        np.testing.assert_array_equal(built.marginal(64), now.p)


def test_draws_are_those_of_the_strategy_it_is_at(alpha_bar):
    built, alone = speed_then_uniform().build(alpha_bar()), strategy("speed").build(alpha_bar())
    draws = [s.draw(64, torch.Generator().manual_seed(3)) for s in (built, alone)]
    assert torch.equal(*draws)


@pytest.mark.parametrize("batches", [1, 3, 4, 9])
def test_a_resumed_phase_goes_on_where_it_was(batches, alpha_bar, generator):
    built, resumed = (speed_then_uniform(200).build(alpha_bar()) for _ in range(2))
    for _ in range(batches):
        built.draw(64, generator)
    resumed.load_state_dict(built.state_dict())
    for seed in range(5):
        draws = [s.draw(64, torch.Generator().manual_seed(seed)) for s in (built, resumed)]
        assert torch.equal(*draws)
        np.testing.assert_array_equal(built.p, resumed.p)


def test_phases_of_phases_keep_their_own_count(alpha_bar, generator):
    inner = speed_then_uniform(64).model_dump()
    built, resumed = (
        strategy("phase", phases=[UNIFORM | {"images": 64}, {"strategy": inner}]).build(
            alpha_bar()
        )
        for _ in range(2)
    )
    kinds = []
    for _ in range(4):
        resumed.load_state_dict(built.state_dict())
        torch.testing.assert_close(resumed.state_dict(), built.state_dict())
        built.draw(64, generator)
        kinds.append("uniform" if np.ptp(built.p) < 1e-12 else "speed")
    assert kinds == ["uniform", "speed", "uniform", "uniform"]


def test_a_ramp_to_clts_is_clts(alpha_bar, generator):
    """Section 9: p_s = (1 - l_s) / T + l_s N with l_s = l_max min(1, s / S)."""
    clts = {"kind": "clts", "l": 0.9}
    phases = [UNIFORM | {"images": 5000, "ramp": True}, {"strategy": clts}]
    built = strategy("phase", phases=phases).build(alpha_bar())
    for images in range(0, 7000, 100):
        built.draw(100, generator)
        l_s = 0.9 * min(1, images / 5000)
        expected = strategy("clts", l=l_s).density(alpha_bar())
        np.testing.assert_allclose(built.p, expected, atol=1e-12)


def test_a_ramp_moves_the_weighted_density_on_a_straight_line(alpha_bar, generator):
    phases = [SPEED | {"images": 100, "ramp": True}, {"strategy": {"kind": "min_snr"}}]
    built = strategy("phase", phases=phases).build(alpha_bar())
    speed, min_snr = (strategy(kind).build(alpha_bar()) for kind in ("speed", "min_snr"))
    built.draw(50, generator)
    built.draw(50, generator)
    middle = (speed.p * speed.w + min_snr.p * min_snr.w) / 2
    np.testing.assert_allclose(built.p * built.w, middle)


@pytest.mark.parametrize("ramp", [True, False])
@pytest.mark.parametrize(
    "own", [{}, {"stratify": False}, {"lattice": True}, {"antithetic": True, "stratify": False}]
)
def test_draws_depend_on_each_other_as_the_phases_say(own, ramp, alpha_bar):
    alone = strategy("compose", **own)
    phases = [{"strategy": alone.model_dump(), "images": 10_000, "ramp": ramp}]
    built = strategy("phase", phases=[*phases, phases[0] | {"images": None, "ramp": False}])
    draws = [
        config.build(alpha_bar()).draw(64, torch.Generator().manual_seed(3))
        for config in (built, alone)
    ]
    assert torch.equal(*draws)


def test_a_ramp_needs_two_tables(alpha_bar):
    mirrored = {"strategy": {"kind": "speed_released"}, "images": 64, "ramp": True}
    config = strategy("phase", phases=[mirrored, UNIFORM])
    with pytest.raises(UserError, match=r"phase\.ramp must join two tables, got MirroredStrategy"):
        config.build(alpha_bar())


def test_a_phase_that_does_not_fit_the_process_is_refused(alpha_bar):
    config = strategy(
        "phase", phases=[{"strategy": {"kind": "speed", "tau": 600}, "images": 9}, UNIFORM]
    )
    with pytest.raises(UserError, match=r"speed\.tau must be in 1\.\.500 \(T\), got 600"):
        config.build(alpha_bar("linear", 500))
