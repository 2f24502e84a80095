"""Strategies that learn, inside a training: the same on all workers and after a resume."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from stepsearch.diffusion.checkpoints import read_checkpoint
from stepsearch.diffusion.noise import VPConfig
from stepsearch.diffusion.training import Training
from stepsearch.errors import UserError
from stepsearch.strategies import STRATEGIES, PredictionType, Strategy, strategy
from stepsearch.strategies.adaptive.probe import Probe
from stepsearch.strategies.adaptive.table import LearnedConfig
from stepsearch.strategies.weights import VlbConfig

Build = Callable[..., Training]
Start = Callable[..., "subprocess.Popen[str]"]

OFTEN: dict[str, dict[str, Any]] = {
    "adaptive": {"every": 2, "grid": 20, "lr": 0.01, "queue": 6},
    "loss_second_moment": {"history": 1},
    "infonoise": {"history": 8, "bins": 4, "warmup": 0.0, "every": 2},
    "vdm_adaptive": {},
    "edm2_uncertainty": {},
    "decl": {"clusters": 5, "patience": 2},
    "gradient_variance": {"bins": 3, "every": 2},
    "phase": {
        "phases": [
            {"strategy": {"kind": "loss_second_moment", "history": 1}, "images": 96},
            {"strategy": {"kind": "adaptive", "every": 2, "grid": 20, "queue": 6}},
        ]
    },
}
"""Parameters with which each learns within a few steps."""
LEARNING = sorted(OFTEN)


def new(kind: str, target: PredictionType = "epsilon", T: int = 1000, **changes: Any) -> Strategy:
    process = VPConfig(timesteps=T).build()
    return strategy(kind, **OFTEN[kind] | changes).build(process.alpha_bar, target)


def flat(state: Any) -> list[Any]:
    """All tensors and plain values of a state."""
    if isinstance(state, dict):
        return [part for key in sorted(state, key=str) for part in flat(state[key])]
    if isinstance(state, list | tuple):
        return [part for value in state for part in flat(value)]
    return [state.tolist() if isinstance(state, Tensor) else state]


def test_every_strategy_with_a_state_is_tested_here() -> None:
    learned = {kind for kind, config in STRATEGIES.items() if issubclass(config, LearnedConfig)}
    assert learned | {"phase"} == set(LEARNING)


@pytest.mark.parametrize("kind", LEARNING)
def test_what_was_learned_goes_on_from_a_checkpoint_bit_for_bit(
    kind: str, build_training: Build, tmp_path: Path
) -> None:
    whole, half = build_training(timesteps=new(kind)), build_training(timesteps=new(kind))
    half.run(96)
    half.save(tmp_path / "half")
    resumed = build_training(timesteps=new(kind))
    resumed.load(tmp_path / "half")
    resumed.run(176)
    whole.run(176)
    state = whole.strategy.state_dict()
    assert repr(flat(resumed.strategy.state_dict())) == repr(flat(state))
    assert repr(flat(state)) != repr(flat(half.strategy.state_dict()))
    np.testing.assert_array_equal(resumed.strategy.p, whole.strategy.p)
    np.testing.assert_array_equal(resumed.strategy.w, whole.strategy.w)
    for one, other in zip(whole.ema.parameters(), resumed.ema.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("kind", LEARNING)
def test_a_checkpoint_of_another_strategy_is_refused(
    kind: str, build_training: Build, tmp_path: Path
) -> None:
    build_training().save(tmp_path / "checkpoint")
    with pytest.raises(UserError, match=f"{kind} must have a state of .* to load"):
        build_training(timesteps=new(kind)).load(tmp_path / "checkpoint")


@pytest.mark.parametrize("kind", LEARNING)
@pytest.mark.parametrize(("batch_size", "T"), [(1, 1000), (7, 50), (8, 1500)])
def test_any_batch_size_and_any_number_of_timesteps(
    kind: str, batch_size: int, T: int, build_training: Build
) -> None:
    training = build_training(
        timesteps=new(kind, T=T), process=VPConfig(timesteps=T).build(), batch_size=batch_size
    )
    training.run(12 * batch_size)
    built = training.strategy
    assert len(built.p) == T
    assert built.p.sum() == pytest.approx(1)
    assert np.isfinite(built.w).all()
    assert torch.isfinite(torch.nn.utils.parameters_to_vector(training.ema.parameters())).all()


@pytest.mark.parametrize("kind", ["adaptive", "gradient_variance", "loss_second_moment"])
def test_slices_of_a_batch_change_what_is_learned_by_rounding_only(
    kind: str, build_training: Build
) -> None:
    whole, sliced = (
        build_training(timesteps=new(kind)),
        build_training(timesteps=new(kind), slices=3),
    )
    whole.run(80)
    sliced.run(80)
    np.testing.assert_allclose(sliced.strategy.p, whole.strategy.p, rtol=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["adaptive", "loss_second_moment", "gradient_variance"])
def test_two_gloo_workers_learn_the_same_as_each_other_and_as_one(
    kind: str, build_training: Build, start_training: Start, tmp_path: Path
) -> None:
    processes = [
        start_training(
            steps=12,
            save=tmp_path / str(rank),
            rank=rank,
            rendezvous=tmp_path / "rendezvous",
            strategy=json.dumps({"kind": kind, **OFTEN[kind]}),
        )
        for rank in range(2)
    ]
    alone = build_training(timesteps=new(kind))
    alone.run(8 * 12)
    outputs = [process.communicate(timeout=300)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert outputs[0] == outputs[1]
    first, second = (read_checkpoint(tmp_path / str(rank)) for rank in range(2))
    assert flat(first["strategy"]) == flat(second["strategy"])  # all bits
    expected = alone.strategy.state_dict()
    assert first["strategy"].keys() == expected.keys()
    for name in {"last", "history", "variance"} & expected.keys():
        torch.testing.assert_close(first["strategy"][name], expected[name], rtol=1e-2, atol=1e-4)


# --- the adaptive one's reward


def test_a_step_that_changes_nothing_has_a_reward_of_exactly_0(build_training: Build) -> None:
    training = build_training(timesteps=new("adaptive", every=1), lr=0.0)
    training.run(80)
    state = training.strategy.state_dict()
    assert state["queue"].shape == (6, 20)
    assert not state["queue"].any()
    assert state["rewards"].tolist() == [0, 0]
    moving = build_training(timesteps=new("adaptive", every=1))
    moving.run(80)
    assert moving.strategy.state_dict()["queue"][1:].any(dim=1).all()


def test_the_reward_is_blind_to_dropout(build_training: Build) -> None:
    training = build_training(timesteps=new("adaptive", every=1), lr=0.0)
    dropouts = [m for m in training.denoiser.modules() if isinstance(m, torch.nn.Dropout)]
    assert dropouts
    for dropout in dropouts:
        dropout.p = 0.5
    training.run(40)
    assert not training.strategy.state_dict()["queue"].any()
    assert training.denoiser.training


@pytest.mark.parametrize("target", ["epsilon", "v_prediction", "sample"])
def test_a_training_that_learns_is_rewarded_for_every_target(
    target: PredictionType, build_training: Build
) -> None:
    abar = VPConfig().build().alpha_bar
    training = build_training(
        timesteps=strategy("uniform").build(abar, target), prediction_type=target, batch_size=32
    )
    coefficients = torch.from_numpy(VlbConfig().weight(abar, target))
    step = training._draw()
    probe = Probe(step, torch.arange(5, 1000, 50), torch.tensor([100, 500]), 8, coefficients)
    training.run(32 * 14)
    row, rewards = probe.decrease(step)
    assert row.shape == (20,)
    assert rewards.shape == (8,)
    assert row.sum() > 0
    assert rewards.mean() > 0


def test_a_reward_that_is_not_finite_leaves_the_policy_alone(build_training: Build) -> None:
    training = build_training(timesteps=new("adaptive", every=1))
    training.run(80)
    before = flat(training.strategy.state_dict())
    step = training._draw()
    training.strategy.before_update(step)
    with torch.no_grad():
        next(training.denoiser.parameters()).fill_(float("nan"))
    training.strategy.after_update(step)
    now = training.strategy.state_dict()
    now["last"] = torch.tensor(before[sorted(now).index("last")])
    assert len(flat(now)) == len(before)
    assert np.isfinite(training.strategy.p).all()
    assert all(torch.isfinite(w).all() for k, w in now.items() if k.startswith("policy"))
    assert now["queue"].isfinite().all()


def test_selected_timesteps_leave_the_even_ones_once_the_queue_can_tell(
    build_training: Build,
) -> None:
    training = build_training(timesteps=new("adaptive"))
    assert training.strategy.state_dict()["selected"].tolist() == [166, 500, 833]
    training.run(8 * 9)
    assert training.strategy.state_dict()["selected"].tolist() == [166, 500, 833]
    training.run(8 * 30)
    selected = training.strategy.state_dict()["selected"]
    assert len(selected.unique()) == 3
    assert selected.tolist() != [166, 500, 833]
    assert set(selected.tolist()) <= set(range(25, 1000, 50))  # of the grid


def test_adaptive_draws_with_min_snrs_weights(build_training: Build) -> None:
    timesteps = new("adaptive", w={"kind": "min_snr"})
    training = build_training(timesteps=timesteps)
    training.run(160)
    abar = VPConfig().build().alpha_bar
    np.testing.assert_array_equal(timesteps.w, strategy("min_snr").weight(abar, "epsilon"))


def test_the_policy_comes_to_prefer_what_it_is_rewarded_for(build_training: Build) -> None:
    """Small timesteps are rewarded by hand; the density follows."""
    timesteps = new("adaptive", every=1, lr=0.02, probed_images=None)
    training = build_training(timesteps=timesteps, batch_size=32)
    for _ in range(60):
        step = training._draw()
        timesteps._improve(step.x0, step.t, -step.t.double())
    assert timesteps.p @ np.arange(1000) < 350
