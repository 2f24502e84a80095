"""What holds for every noise process of the table."""

from collections.abc import Callable
from itertools import pairwise, product
from typing import get_args

import numpy as np
import pytest
import torch

from stepsearch.diffusion.loss import LossMeter, combine
from stepsearch.diffusion.noise import (
    PROCESSES,
    EDMConfig,
    FlowConfig,
    ProcessConfig,
    Schedule,
    VPConfig,
)
from stepsearch.diffusion.training import Training
from stepsearch.diffusion.workers import ALONE
from stepsearch.errors import UserError
from stepsearch.strategies import STRATEGIES, PredictionType, strategy
from stepsearch.strategies.base import from_epsilon, x0_errors
from tests.diffusion.conftest import batch

EXAMPLES = [
    *(config() for config in PROCESSES.values()),
    *(VPConfig(schedule=name, zero_terminal_snr=True) for name in get_args(Schedule)),
    EDMConfig(timesteps=50, sigma_min=0.01, sigma_max=10),
    FlowConfig(shift=3),
    FlowConfig(shift=0.5, timesteps=137),
]
PAIRS = [(config, target) for config in EXAMPLES for target in config.targets]


def name(value: object) -> str:
    if not isinstance(value, ProcessConfig):
        return str(value)
    changed = value.model_dump(exclude_defaults=True)
    return f"{value.kind}({', '.join(f'{key}={changed[key]}' for key in changed)})"


CLOSE = {"rtol": 1e-4, "atol": 1e-5}  # of float32

every_process = pytest.mark.parametrize("config", EXAMPLES, ids=name)
every_pair = pytest.mark.parametrize(("config", "target"), PAIRS, ids=name)


@every_process
def test_the_signal_falls_from_almost_all_to_almost_nothing(config):
    process = config.build()
    assert config.timesteps == process.T
    assert process.kind == config.kind
    assert process.alpha_bar.shape == (process.T,)
    assert process.alpha_bar.dtype == np.float64
    assert np.all(np.diff(process.alpha_bar) < 0)
    assert 0.9 < process.alpha_bar[0] < 1
    assert 0 <= process.alpha_bar[-1] < 0.02
    assert not process.alpha_bar.flags.writeable


@every_process
def test_the_state_holds_signal_and_noise_as_alpha_bar_says(config):
    process = config.build()
    x0, noise, t = batch(process)
    a, b = (c.double().numpy() for c in process.coefficients(t))
    np.testing.assert_allclose(a**2 / (a**2 + b**2), process.alpha_bar, rtol=1e-4, atol=1e-6)
    expected = torch.tensor(a).view(-1, 1, 1, 1) * x0 + torch.tensor(b).view(-1, 1, 1, 1) * noise
    torch.testing.assert_close(process.add_noise(x0, noise, t).double(), expected, **CLOSE)


@every_process
def test_snr_and_sigma_follow_from_alpha_bar_also_without_signal(config):
    process = config.build()
    some = process.alpha_bar > 0
    np.testing.assert_allclose(process.snr[some], process.sigma[some] ** -2)
    np.testing.assert_allclose(process.log_snr[some], -2 * np.log(process.sigma[some]))
    assert np.all(process.log_snr[~some] == -np.inf)
    assert np.all(process.sigma[~some] == np.inf)


@every_pair
def test_a_perfect_output_gives_back_the_image(config, target):
    process = config.build()
    x0, noise, t = batch(process)
    if target == "epsilon":  # at its noisiest steps float32 has no digits left
        x0, noise, t = (v[:600] for v in (x0, noise, t))
    x_t = process.add_noise(x0, noise, t)
    output = process.target(x0, noise, t, target)
    recovered = process.predict_x0(x_t, output, t, target)
    torch.testing.assert_close(recovered, x0, rtol=1e-4, atol=2e-4)


@every_pair
def test_errors_of_the_target_and_of_the_image_are_in_the_stated_ratio(config, target):
    """With x_t given, an error d in the image is one of (c_x - c_eps a / b) d in a target
    c_x x0 + c_eps eps.
    """
    process = config.build()
    x0, noise, t = batch(process)
    x0, noise, error = x0.double(), noise.double(), 0.1 * torch.randn_like(x0).double()
    x_t, output = process.add_noise(x0, noise, t), process.target(x0, noise, t, target)
    right = process.predict_x0(x_t, output, t, target)
    wrong = process.predict_x0(x_t, output + error, t, target)
    ratio = (error**2).flatten(1).sum(1) / ((wrong - right) ** 2).flatten(1).sum(1)
    np.testing.assert_allclose(ratio, x0_errors(process.alpha_bar, target), rtol=2e-3)


@pytest.mark.parametrize("target", get_args(PredictionType))
def test_a_weight_on_eps_is_the_same_weight_on_the_image_for_every_target(target):
    process = VPConfig().build()
    w = np.random.default_rng(0).uniform(size=process.T)
    on_x0 = from_epsilon(w, process.alpha_bar, target) * x0_errors(process.alpha_bar, target)
    np.testing.assert_allclose(on_x0, w * process.snr)


@every_process
def test_only_its_own_targets_are_allowed(config):
    others = [target for target in get_args(PredictionType) if target not in config.targets]
    assert others
    for target in config.targets:
        config.check(target)
    for target in others:
        with pytest.raises(UserError) as error:
            config.check(target)
        line = str(error.value)
        assert line.startswith(f"training.prediction_type must be {config.targets[0]}")
        assert f"{config.targets[-1]} on noise.kind {config.kind}" in line
        assert line.endswith(f", got {target!r}")


MIRRORED = (
    "speed_released",
    "speed_v1",
)  # they need a schedule that first changes and then comes to rest
PHASES = {"phases": [{"strategy": {"kind": "p2"}, "images": 9}, {"strategy": {"kind": "uniform"}}]}


@pytest.mark.parametrize(("pair", "kind"), list(product(PAIRS, STRATEGIES)), ids=str)
def test_every_strategy_works_on_every_process_for_every_target(pair, kind):
    config, target = pair
    process = config.build()
    member = strategy(kind, **(PHASES if kind == "phase" else {}))
    change = np.gradient(np.sqrt(1 - process.alpha_bar))
    if kind in MIRRORED and (change[0] < 1e-4 or change.min() >= 1e-4):
        with pytest.raises(UserError, match="mirror must be false on this noise process"):
            member.build(process.alpha_bar, target)
        return
    built = member.build(process.alpha_bar, target)
    assert built.p.sum() == pytest.approx(1, abs=1e-6)
    assert np.all(np.isfinite(built.w))
    assert built.w.max() > 0


@pytest.mark.parametrize(
    ("config", "target"),
    [
        (VPConfig(zero_terminal_snr=True), "v_prediction"),
        (VPConfig(zero_terminal_snr=True), "sample"),
        (EDMConfig(), "edm"),
        (FlowConfig(), "flow"),
    ],
    ids=name,
)
def test_a_denoiser_learns(config, target, build_training: Callable[..., Training]):
    process = config.build()
    training = build_training(
        process=process,
        timesteps=STRATEGIES["uniform"]().build(process.alpha_bar, target),
        prediction_type=target,
        batch_size=32,
        budget=32 * 30,
        lr=8e-3,
        warmup_steps=5,
    )
    first = training.run(32 * 5)
    training.run(32 * 25)
    last = training.run(32 * 30)
    assert last.mean_loss < 0.8 * first.mean_loss
    assert np.all(np.isfinite(last.log_snr))
    assert last.count.sum() == 32 * 5


def test_a_training_on_levels_between_timesteps_goes_on_bit_for_bit(
    build_training: Callable[..., Training], tmp_path
):
    process = EDMConfig().build()
    timesteps = STRATEGIES["uniform"]().build(process.alpha_bar, "edm")
    whole, first, second = (
        build_training(process=process, timesteps=timesteps, prediction_type="edm")
        for _ in range(3)
    )
    losses = [whole.run(80).mean_loss, whole.run(160).mean_loss]
    assert first.run(80).mean_loss == losses[0]
    first.save(tmp_path / "checkpoint.pt")
    second.load(tmp_path / "checkpoint.pt")
    assert second.run(160).mean_loss == losses[1]


def test_a_training_refuses_a_target_of_another_process(build_training: Callable[..., Training]):
    message = "^training.prediction_type must be edm on noise.kind edm, got 'epsilon'$"
    with pytest.raises(UserError, match=message):
        build_training(process=EDMConfig().build())


def test_a_timestep_without_signal_counts_as_the_noisiest():
    process = FlowConfig().build()
    meter = LossMeter(process.log_snr, ALONE)
    loss = torch.ones(2)
    meter.add(torch.tensor([999, 0]), loss, loss.mean(), loss.mean())
    summary = meter.summary()
    assert summary.count[0] == summary.count[-1] == 1
    assert np.all(np.isfinite(summary.log_snr))


def test_losses_are_summed_up_by_noise_level_and_by_stage():
    """Stage 2 begins at t = 300, stage 3 at 700; two stretches are averaged by their images."""
    log_snr = VPConfig().build().log_snr
    rng = np.random.default_rng(0)
    summaries, seen = [], []
    for _ in range(2):
        meter = LossMeter(log_snr, ALONE, starts=(300, 700))
        t = np.concatenate([[0, 299, 300, 699, 700, 999], rng.integers(0, 1000, 30)])
        mse = torch.from_numpy(rng.random(len(t)))
        meter.add(torch.from_numpy(t), mse, mse.mean(), mse.mean())
        summaries.append(meter.summary())
        seen += zip(t, mse.tolist(), strict=True)
    total = combine(summaries)
    stages = [[loss for t, loss in seen if a <= t < b] for a, b in pairwise([0, 300, 700, 1000])]
    assert total.stage_count.tolist() == [len(losses) for losses in stages]
    assert total.stage_loss == pytest.approx([np.mean(losses) for losses in stages])
    assert total.count.sum() == len(seen)
    filled = total.count > 0
    mean = np.average(total.loss[filled], weights=total.count[filled])
    assert mean == pytest.approx(np.mean([loss for _, loss in seen]))
    assert LossMeter(log_snr, ALONE).summary().stage_loss.size == 0


@every_process
def test_discrete_levels_are_the_timesteps_and_cost_no_random_number(config):
    process, generator = config.build(), torch.Generator().manual_seed(0)
    t = torch.arange(50).repeat(1000)
    level = process.jitter(t, generator)
    if config.kind != "edm":
        assert level is t
        assert torch.equal(generator.get_state(), torch.Generator().manual_seed(0).get_state())
        return
    inside = level - t
    assert inside.abs().max() <= 0.5
    assert inside.mean().item() == pytest.approx(0, abs=0.01)
    assert inside.var().item() == pytest.approx(1 / 12, abs=0.003)
