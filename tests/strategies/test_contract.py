"""What holds for every strategy of the table, on every process and for every prediction type."""

from itertools import product
from typing import get_args

import numpy as np
import pytest
import torch
from scipy.stats import chi2, chisquare

from stepsearch.diffusion.noise import Schedule
from stepsearch.errors import UserError
from stepsearch.strategies import (
    DENSITIES,
    STRATEGIES,
    WEIGHTS,
    PredictionType,
    StrategyConfig,
    strategy,
    table_of,
)
from stepsearch.strategies.adaptive import PAPER

# what a family cannot do without
REQUIRED = {
    "phase": {
        "phases": [
            {"strategy": {"kind": "speed"}, "images": 10**9},
            {"strategy": {"kind": "uniform"}},
        ]
    },
}
EXAMPLES = [
    *(strategy(kind, **REQUIRED.get(kind, {})) for kind in STRATEGIES),
    strategy("speed", mirror=True),
    strategy("speed", r=7.2, lam=1.0, k=25, convergence_weight="released"),
    strategy("step", abar=0.1, k=1000),
    strategy("p2", gamma=0.5),
    strategy("min_snr", gamma=1),
    strategy("beta", a=0.5, b=3),
    strategy("mode", scale=-1),
    strategy("vlb", variance="fixed_small"),
    strategy("table", p=[3, 0, 1], w=[0, 2]),
    strategy("compose", p={"kind": "laplace"}, w={"kind": "min_snr"}, floor=0.1, shift=3),
    strategy("compose", p={"kind": "step"}, importance_correct=True, antithetic=True),
    strategy("compose", p={"kind": "beta"}, w={"kind": "edm"}, lattice=True, normalize=True),
    strategy("compose", p={"kind": "step"}, w={"kind": "p2"}, mirror=True, power=0.5),
    strategy("adaptive", **PAPER, w={"kind": "min_snr"}),
    strategy("loss_second_moment", w={"kind": "p2"}, history=1, floor=0.5),
    strategy("infonoise", over_weight=False, floor=0),
    strategy("decl", clusters=3, floor=0.1),
]
PROCESSES = [*product(get_args(Schedule), [1000]), *product(["linear"], [50, 100, 4000])]


def name(value: object) -> str:
    """What pytest shows of a parameter: `speed(mirror=True)`."""
    if not isinstance(value, StrategyConfig):
        return str(value)
    changed = value.model_dump(exclude_defaults=True)
    return f"{value.kind}({', '.join(f'{key}={changed[key]}' for key in changed)})"


every_strategy = pytest.mark.parametrize("config", EXAMPLES, ids=name)


@pytest.fixture
def processes(alpha_bar):
    """alpha_bar of every schedule and of other T, and one whose last step holds no signal."""
    blind = alpha_bar().copy()
    blind[-1] = 0
    return [*(alpha_bar(*process) for process in PROCESSES), blind]


@every_strategy
def test_density_and_weight_are_proper_on_every_process(config, processes):
    for alpha_bar, prediction_type in product(processes, get_args(PredictionType)):
        built = config.build(alpha_bar, prediction_type)
        assert built.p.shape == built.w.shape == alpha_bar.shape
        assert built.p.sum() == pytest.approx(1, abs=1e-6)
        assert np.all(built.p >= 0)
        assert np.all(np.isfinite(built.w))
        assert np.all(built.w >= 0)
        assert built.w @ built.p > 0
        assert built.marginal(256).sum() == pytest.approx(1, abs=1e-6)


@every_strategy
def test_tables_are_what_density_and_weight_say_and_cannot_be_changed(config, alpha_bar):
    built = config.build(alpha_bar(), "v_prediction")
    np.testing.assert_allclose(built.p, config.density(alpha_bar()), rtol=1e-12)
    np.testing.assert_allclose(built.w, config.weight(alpha_bar(), "v_prediction"), rtol=1e-12)
    for table in (built.p, built.w):
        with pytest.raises(ValueError, match="read-only"):
            table[0] = 1


@every_strategy
@pytest.mark.parametrize("stratify", [True, False])
def test_draws_are_n_integers_in_range(config, stratify, alpha_bar, generator):
    built = stratified(config, stratify).build(alpha_bar("linear", 500))
    for n in [1, 2, 3, 7, 64] * 10:
        t = built.draw(n, generator)
        assert t.shape == (n,)
        assert t.dtype == torch.int64
        assert t.min() >= 0
        assert t.max() < 500


@every_strategy
def test_draws_follow_the_declared_marginal(config, alpha_bar, generator):
    n, batches, bins = 256, 400, 50
    independent = stratified(config, False).build(alpha_bar())
    draws = torch.cat([independent.draw(n, generator) for _ in range(batches)])
    marginal = independent.marginal(n)
    of_t = np.minimum((np.cumsum(marginal) * bins).astype(int), bins - 1)  # of about equal mass
    seen = np.bincount(of_t, np.bincount(draws, minlength=1000))
    expected = np.bincount(of_t, marginal) * len(draws)
    assert not seen[expected == 0].any()
    found = chisquare(seen[expected > 0], expected[expected > 0])
    degrees = np.count_nonzero(expected) - 1
    assert chi2.sf(found.statistic / dependence(config), degrees) > 1e-5


def stratified(config: StrategyConfig, stratify: bool) -> StrategyConfig:
    """The strategy with stratified draws or without: those of a phase are its own strategy's."""
    own = config.model_dump()
    for part in [phase["strategy"] for phase in own.get("phases", [])] or [own]:
        part["stratify"] = stratify
    return strategy(**own)


def dependence(config: StrategyConfig) -> float:
    """By how much draws that come in pairs raise the statistic; methods, section 1: 1.13."""
    if getattr(config, "mirror", False):
        return 1.13
    return 2 if getattr(config, "antithetic", False) else 1


@every_strategy
@pytest.mark.parametrize("n", [3, 256])
def test_stratified_draws_keep_the_marginal_at_every_place_of_the_batch(
    config, n, alpha_bar, generator
):
    built = config.build(alpha_bar("linear", 100))
    batches = torch.stack([built.draw(n, generator) for _ in range(30_000 // n)])
    seen = np.bincount(batches.flatten(), minlength=100).reshape(10, 10).sum(1)
    expected = built.marginal(n).reshape(10, 10).sum(1) * batches.numel()
    assert np.all(abs(seen - expected) <= 4 * np.sqrt(expected))
    if not getattr(config, "mirror", False):  # a place is either always mirrored or never
        first = np.bincount(batches[:, 0], minlength=100).reshape(10, 10).sum(1)
        expected = built.p.reshape(10, 10).sum(1) * len(batches)
        assert np.all(abs(first - expected) <= 4 * np.sqrt(expected))


@every_strategy
def test_same_seed_gives_the_same_draw(config, alpha_bar):
    first, second = (config.build(alpha_bar()) for _ in range(2))
    draws = [s.draw(9, torch.Generator().manual_seed(5)) for s in (first, second)]
    assert torch.equal(*draws)
    assert not torch.equal(draws[0], first.draw(9, torch.Generator().manual_seed(6)))


@every_strategy
def test_weights_are_float32_and_indexed_by_t(config, alpha_bar):
    built = config.build(alpha_bar())
    t = torch.tensor([[0, 999], [400, 3]])
    assert built.weights(t).dtype == torch.float32
    np.testing.assert_array_equal(built.weights(t), built.w[t].astype(np.float32))


@every_strategy
def test_state_survives_a_round_trip(config, alpha_bar):
    built, fresh = (config.build(alpha_bar()) for _ in range(2))
    generator = torch.Generator().manual_seed(1)
    built.observe(built.draw(8, generator), torch.ones(8))
    fresh.load_state_dict(built.state_dict())
    np.testing.assert_array_equal(fresh.p, built.p)
    np.testing.assert_array_equal(fresh.w, built.w)


@every_strategy
def test_foreign_state_is_refused(config, alpha_bar):
    with pytest.raises(UserError, match=r"state .*load.*, got \['ema'\]"):
        config.build(alpha_bar()).load_state_dict({"ema": torch.ones(3)})


@every_strategy
def test_config_survives_json(config):
    assert type(config).model_validate_json(config.model_dump_json()) == config


@every_strategy
def test_a_strategy_is_carried_to_another_process(config, alpha_bar):
    here, there = alpha_bar("linear"), alpha_bar("cosine", 250)
    built = config.build(here)
    table = table_of(built, here)
    same, other = table.build(here), table.build(there)
    np.testing.assert_allclose(same.p, built.p, atol=1e-12)
    np.testing.assert_allclose(same.w, built.w, rtol=1e-9)
    assert other.p.sum() == pytest.approx(1)
    assert type(table).model_validate_json(table.model_dump_json()) == table
    for level in (0.2, 0.8):
        mass = built.p[here > level].sum()
        assert other.p[there > level].sum() == pytest.approx(mass, abs=0.02)


def test_every_factor_is_a_strategy_by_itself():
    assert DENSITIES.items() <= STRATEGIES.items()
    assert WEIGHTS.items() <= STRATEGIES.items()
    assert all(STRATEGIES[kind].model_fields["kind"].default == kind for kind in STRATEGIES)


@pytest.mark.parametrize("levels", [[0.5, 1.0], [0.5, -0.1], [0.5, float("nan")]])
def test_alpha_bar_outside_0_1_is_refused(levels):
    with pytest.raises(UserError, match=r"alpha_bar must be in \[0, 1\), got"):
        strategy("uniform").build(np.array(levels))
