"""A strategy inside each stage: equal shares, equal weights, the strategy's own shape inside."""

import numpy as np
import pytest
import torch

from stepsearch.errors import UserError
from stepsearch.strategies import STRATEGIES, TableStrategy, strategy
from stepsearch.strategies.staged import build_staged

STARTS = (300, 650)
STAGES = (slice(0, 300), slice(300, 650), slice(650, 1000))


@pytest.fixture
def alpha_bar() -> np.ndarray:
    return np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))


@pytest.mark.parametrize("kind", ["uniform", "speed", "min_snr", "laplace", "p2"])
def test_every_stage_has_the_same_share_and_weight_and_the_strategys_shape(kind, alpha_bar):
    whole = strategy(kind).build(alpha_bar)
    staged = build_staged(strategy(kind), alpha_bar, "epsilon", STARTS)
    assert staged.p.sum() == pytest.approx(1)
    assert staged.p @ staged.w == pytest.approx(1)
    for inside in STAGES:
        assert staged.p[inside].sum() == pytest.approx(1 / 3)
        assert staged.p[inside] @ staged.w[inside] == pytest.approx(1 / 3)
        for ours, theirs in ((staged.p, whole.p), (staged.w, whole.w)):
            np.testing.assert_allclose(
                ours[inside] / ours[inside].max(), theirs[inside] / theirs[inside].max()
            )


def test_without_stages_it_is_the_strategy_itself(alpha_bar):
    plain = build_staged(strategy("speed"), alpha_bar, "epsilon", ())
    assert type(plain) is TableStrategy
    np.testing.assert_array_equal(plain.p, strategy("speed").build(alpha_bar).p)


def test_image_i_of_a_batch_is_of_stage_i_mod_n(alpha_bar):
    staged = build_staged(strategy("speed"), alpha_bar, "epsilon", STARTS)
    t = staged.draw(60, torch.Generator().manual_seed(0))
    for k, inside in enumerate(STAGES):
        own = t[k::3]
        assert own.min() >= inside.start
        assert own.max() < inside.stop


def test_a_batch_that_stages_cannot_share_evenly_is_shared_evenly_on_average(alpha_bar):
    staged = build_staged(strategy("uniform"), alpha_bar, "epsilon", STARTS)
    generator = torch.Generator().manual_seed(0)
    stages = [np.digitize(staged.draw(4, generator).numpy(), STARTS) for _ in range(600)]
    counts = np.array([np.bincount(row, minlength=3) for row in stages])
    assert set(map(tuple, counts)) == {(2, 1, 1), (1, 2, 1), (1, 1, 2)}
    # 600 fair choices of the stage with two: sd 11.5
    np.testing.assert_allclose((counts == 2).sum(0), 200, atol=50)


def test_the_draws_have_the_density_of_the_table(alpha_bar):
    staged = build_staged(strategy("speed"), alpha_bar, "epsilon", STARTS)
    t = staged.draw(300_000, torch.Generator().manual_seed(0)).numpy()
    seen = np.bincount(t, minlength=1000) / len(t)
    assert np.abs(np.cumsum(seen) - np.cumsum(staged.p)).max() < 1e-3


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("adaptive", {}),
        ("speed", {"mirror": True}),
        ("loss_second_moment", {}),
        (
            "phase",
            {"phases": [{"strategy": {"kind": "p2"}, "images": 9}, {"strategy": {"kind": "p2"}}]},
        ),
    ],
)
def test_a_strategy_that_is_no_pair_of_tables_is_refused(kind, fields, alpha_bar):
    config = STRATEGIES[kind].model_validate(fields)
    with pytest.raises(UserError) as error:
        build_staged(config, alpha_bar, "epsilon", STARTS)
    assert str(error.value) == (
        "strategy must have a fixed p and w, without mirror, for a denoiser with stages,"
        f" got {kind!r}"
    )


def test_a_stage_that_is_never_drawn_is_refused(alpha_bar):
    table = strategy("table", p=[0.0] * 300 + [1.0] * 700)
    with pytest.raises(UserError) as error:
        build_staged(table, alpha_bar, "epsilon", STARTS)
    assert str(error.value) == (
        "strategy must draw and weigh some timesteps of every stage, got none in 0..299"
    )
