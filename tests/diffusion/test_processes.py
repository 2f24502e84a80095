"""What holds for every noise process of the table, and EDM and rectified flow by their papers."""

from collections.abc import Callable
from itertools import product
from typing import get_args

import numpy as np
import pytest
import torch
from diffusers import EDMEulerScheduler, FlowMatchEulerDiscreteScheduler
from diffusers.schedulers.scheduling_ddim import rescale_zero_terminal_snr

from stepsearch.config import parse
from stepsearch.diffusion.loss import LossMeter
from stepsearch.diffusion.noise import (
    PROCESSES,
    EDMConfig,
    FlowConfig,
    NoiseProcess,
    ProcessConfig,
    Schedule,
    VPConfig,
)
from stepsearch.diffusion.training import Training
from stepsearch.diffusion.workers import ALONE
from stepsearch.errors import UserError
from stepsearch.strategies import STRATEGIES, PredictionType, strategy
from stepsearch.strategies.base import from_epsilon, x0_errors

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


def batch(process: NoiseProcess) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """x0, noise and t: one small image for each timestep."""
    generator = torch.Generator().manual_seed(0)
    x0, noise = torch.randn(2, process.T, 3, 4, 4, generator=generator)
    return x0, noise, torch.arange(process.T)


# --- every process ------------------------------------------------------------------------------


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


# --- zero terminal SNR (Lin et al. 2024) --------------------------------------------------------


@pytest.mark.parametrize("schedule", get_args(Schedule))
def test_the_rescaled_schedule_is_that_of_diffusers(schedule):
    plain = VPConfig(schedule=schedule)
    process = VPConfig(schedule=schedule, zero_terminal_snr=True).build()
    theirs = rescale_zero_terminal_snr(torch.tensor(plain.betas())).numpy()
    np.testing.assert_allclose(process.config.betas(), theirs, rtol=1e-9)
    assert process.alpha_bar[-1] == 0
    assert process.alpha_bar[0] == pytest.approx(plain.build().alpha_bar[0], rel=1e-12)
    assert process.name == f"{schedule}_zero_snr"


def test_epsilon_is_refused_without_signal_at_the_end():
    with pytest.raises(UserError) as error:
        VPConfig(zero_terminal_snr=True).check("epsilon")
    assert str(error.value) == (
        "training.prediction_type must be v_prediction or sample"
        " on noise.kind vp with zero_terminal_snr, got 'epsilon'"
    )


def test_the_weights_of_the_methods_page_where_no_signal_is_left():
    """Section 5, trap (b): min(SNR, 5)/SNR gives 0/0 on eps; on v and x0 it is 0."""
    alpha_bar = VPConfig(zero_terminal_snr=True).build().alpha_bar
    w_eps = STRATEGIES["min_snr"]().weight(alpha_bar, "epsilon")
    assert w_eps[-1] == 1
    for target in ("v_prediction", "sample"):
        assert STRATEGIES["min_snr"]().build(alpha_bar, target).w[-1] == 0


# --- EDM (Karras et al. 2022) -------------------------------------------------------------------


def test_the_bins_divide_the_range_of_ln_sigma():
    process = EDMConfig(timesteps=200, sigma_min=0.01, sigma_max=100).build()
    width = np.log(1e4) / 200
    np.testing.assert_allclose(np.diff(np.log(process.sigma)), width)
    assert np.log(process.sigma[0]) == pytest.approx(np.log(0.01) + width / 2)
    assert np.log(process.sigma[-1]) == pytest.approx(np.log(100) - width / 2)


def test_the_preconditioning_is_that_of_table_1_and_of_diffusers():
    process, sd = EDMConfig().build(), 0.5
    scheduler = EDMEulerScheduler(**process.scheduler_config())
    x0, noise, t = batch(process)
    t = t + torch.rand(len(t)) - 0.5  # anywhere in the bins
    low, width = np.log(0.002), np.log(80 / 0.002) / 1000
    sigma = torch.exp(low + width * (t.double() + 0.5)).view(-1, 1, 1, 1)
    x = x0 + sigma * noise
    c_in, c_noise = (sigma**2 + sd**2) ** -0.5, torch.log(sigma) / 4
    c_skip, c_out = sd**2 / (sigma**2 + sd**2), sigma * sd * (sd**2 + sigma**2) ** -0.5

    close = {"rtol": 2e-4, "atol": 2e-4}
    x_t = process.add_noise(x0, noise, t)
    torch.testing.assert_close(x_t.double(), c_in * x, **close)
    torch.testing.assert_close(scheduler.precondition_inputs(x, sigma), x_t.double(), **close)
    torch.testing.assert_close(process.time(t).double(), c_noise.flatten(), **close)
    torch.testing.assert_close(scheduler.precondition_noise(sigma), c_noise)
    output = process.target(x0, noise, t, "edm")
    torch.testing.assert_close(output.double(), (x0 - c_skip * x) / c_out, rtol=0.05, atol=0.01)
    denoised = process.predict_x0(x_t, noise, t, "edm")
    torch.testing.assert_close(denoised.double(), c_skip * x + c_out * noise, **close)
    theirs = scheduler.precondition_outputs(x, noise, sigma)
    torch.testing.assert_close(denoised.double(), theirs, **close)


@pytest.mark.parametrize(
    ("sigma", "weight"),
    [(0.01, 10004), (0.1, 104), (0.5, 8), (1, 5), (10, 4.01), (80, 4.000156)],
)
def test_weight_1_on_the_network_is_edms_weight_on_the_image(sigma, weight):
    """methods/strategies.md section 6: lambda c_out^2 = 1."""
    alpha_bar = np.array([1 / (1 + sigma**2)])
    assert x0_errors(alpha_bar, "edm") == pytest.approx(weight, rel=1e-6)


# --- rectified flow (Liu et al. 2023, Esser et al. 2024) ----------------------------------------


@pytest.mark.parametrize("shift", [1, 3])
def test_the_line_from_image_to_noise_is_that_of_diffusers(shift):
    process = FlowConfig(shift=shift).build()
    scheduler = FlowMatchEulerDiscreteScheduler(**process.scheduler_config())
    x0, noise, t = batch(process)
    torch.testing.assert_close(process.time(t).flip(0), scheduler.timesteps)
    noised = scheduler.scale_noise(x0.flip(0), scheduler.timesteps, noise.flip(0))
    torch.testing.assert_close(process.add_noise(x0, noise, t).flip(0), noised)
    torch.testing.assert_close(process.target(x0, noise, t, "flow"), noise - x0)


@pytest.mark.parametrize(("index", "time"), [(0, 1000), (250, 900), (500, 750), (750, 500)])
def test_shift_3_moves_the_timesteps_as_on_the_methods_page(index, time):
    """Section 7; the index counts from the noisiest timestep."""
    process = FlowConfig(shift=3).build()
    assert process.time(torch.tensor([999 - index])).item() == pytest.approx(time)


# --- wrong input --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "data", "message"),
    [
        ("vp", {"zero_terminal_snr": 3}, "zero_terminal_snr must be true or false, got 3"),
        ("edm", {"timesteps": 49}, "timesteps must be at least 50, got 49"),
        ("edm", {"sigma_min": 0}, "sigma_min must be at least 0.0001, got 0"),
        ("edm", {"sigma_min": 2}, "sigma_min must be at most 1, got 2"),
        ("edm", {"sigma_max": 0.5}, "sigma_max must be at least 1, got 0.5"),
        ("edm", {"sigma_max": 1e6}, "sigma_max must be at most 100000, got 1000000.0"),
        ("edm", {"sigma_max": float("inf")}, "sigma_max must be a finite number, got inf"),
        (
            "edm",
            {"sigma_min": 1, "sigma_max": 1},
            "sigma_max must be greater than sigma_min, got 1.0",
        ),
        ("edm", {"schedule": "linear"}, "schedule is not a known key"),
        ("flow", {"timesteps": 10_001}, "timesteps must be at most 10000, got 10001"),
        ("flow", {"shift": 0}, "shift must be at least 0.01, got 0"),
        ("flow", {"shift": 101}, "shift must be at most 100, got 101"),
        ("flow", {"shift": float("nan")}, "shift must be a finite number, got nan"),
    ],
)
def test_bad_fields_are_refused(kind, data, message):
    with pytest.raises(UserError) as error:
        parse(PROCESSES[kind], data, "noise")
    assert str(error.value).startswith(f"noise.{message}")
