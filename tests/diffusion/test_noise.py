"""Noise processes against section 1 of the methods page and against diffusers."""

import copy
from typing import get_args

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler

from stepsearch.config import parse
from stepsearch.diffusion.noise import NoiseProcess, Schedule, VPConfig
from stepsearch.errors import UserError

every_schedule = pytest.mark.parametrize("schedule", get_args(Schedule))
every_prediction = pytest.mark.parametrize("prediction_type", VPConfig().targets)


@pytest.fixture
def batch() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """x0, noise, t of four small images at both ends and in the middle of T = 1000."""
    generator = torch.Generator().manual_seed(0)
    x0, noise = torch.randn(2, 4, 3, 5, 5, generator=generator)
    return x0, noise, torch.tensor([0, 1, 500, 999])


def build(schedule: str, timesteps: int = 1000) -> NoiseProcess:
    return parse(VPConfig, {"schedule": schedule, "timesteps": timesteps}).build()


# section 1, table "Schedule numbers" (linear, T = 1000): t, abar, SNR
SCHEDULE_NUMBERS = [
    (0, 0.9999, 9999),
    (1, 0.9997801, 4546.358),
    (10, 0.9978066, 454.9075),
    (100, 0.8951416, 8.536670),
    (200, 0.6563470, 1.909912),
    (219, 0.6049430, 1.531281),
    (300, 0.3940111, 0.6501953),
    (400, 0.1935720, 0.2400363),
    (500, 0.07779666, 0.08435955),
    (700, 0.006868279, 0.006915778),
    (900, 2.702445e-4, 2.703176e-4),
    (999, 4.035830e-5, 4.035993e-5),
]


@pytest.mark.parametrize(("t", "alpha_bar", "snr"), SCHEDULE_NUMBERS)
def test_linear_process_matches_table_1(t, alpha_bar, snr):
    process = VPConfig().build()
    assert process.alpha_bar[t] == pytest.approx(alpha_bar, rel=2e-7)
    assert process.snr[t] == pytest.approx(snr, rel=6e-7)
    assert process.log_snr[t] == pytest.approx(np.log(snr), abs=1e-6)
    assert process.sigma[t] == pytest.approx(snr**-0.5, rel=6e-7)


@pytest.mark.parametrize(
    ("schedule", "last"),
    [
        ("linear", 4.035830e-5),
        ("quad", 7.334125e-4),
        ("cosine", 2.428767e-9),
        ("const", 1.682967e-9),
    ],
)
def test_the_noisiest_step_matches_section_1(schedule, last):
    assert build(schedule).alpha_bar[999] == pytest.approx(last, rel=3e-7)


@every_schedule
@pytest.mark.parametrize("timesteps", [50, 1000, 10_000])
def test_signal_falls_from_almost_all_to_almost_nothing(schedule, timesteps):
    alpha_bar = build(schedule, timesteps).alpha_bar
    assert alpha_bar.shape == (timesteps,)
    assert alpha_bar.dtype == np.float64
    assert np.all(np.diff(alpha_bar) < 0)
    assert 0.5 < alpha_bar[0] < 1
    assert 0 < alpha_bar[-1] < 5e-3


@pytest.mark.parametrize("schedule", ["linear", "quad", "scaled_linear"])
def test_the_number_of_timesteps_hardly_changes_the_process(schedule):
    coarse, fine = build(schedule, 500).alpha_bar, build(schedule, 1000).alpha_bar
    np.testing.assert_allclose(coarse, fine[1::2], atol=5e-3)


@every_schedule
@pytest.mark.parametrize("timesteps", [100, 1000])
@pytest.mark.parametrize("scheduler", [DDPMScheduler, DDIMScheduler])
def test_diffusers_schedulers_have_the_same_process(schedule, timesteps, scheduler):
    process = build(schedule, timesteps)
    theirs = scheduler(**process.scheduler_config()).alphas_cumprod
    np.testing.assert_allclose(theirs, process.alpha_bar, rtol=5e-4)


# diffusers' own arguments, written out by hand (T = 1000)
DIFFUSERS = {
    "linear": {"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02},
    "quad": {"beta_schedule": "scaled_linear", "beta_start": 1e-4, "beta_end": 0.02},
    "cosine": {"beta_schedule": "squaredcos_cap_v2"},
    "scaled_linear": {"beta_schedule": "scaled_linear", "beta_start": 8.5e-4, "beta_end": 0.012},
    "const": {"trained_betas": [0.02] * 1000},
}


@pytest.mark.parametrize(("schedule", "arguments"), DIFFUSERS.items())
def test_each_schedule_is_the_one_diffusers_users_know(schedule, arguments):
    alpha_bar = build(schedule).alpha_bar
    theirs = DDPMScheduler(1000, **arguments).alphas_cumprod
    np.testing.assert_allclose(alpha_bar, theirs, rtol=5e-4)


@every_schedule
def test_scheduler_config_survives_diffusers_json(schedule, tmp_path):
    scheduler = DDPMScheduler(**build(schedule, 250).scheduler_config())
    scheduler.save_pretrained(tmp_path)
    loaded = DDPMScheduler.from_pretrained(tmp_path)
    assert torch.equal(loaded.alphas_cumprod, scheduler.alphas_cumprod)


@every_schedule
def test_noising_and_velocity_agree_with_diffusers(schedule, batch):
    x0, noise, t = batch
    process = build(schedule)
    scheduler = DDPMScheduler(**process.scheduler_config())
    noised = process.add_noise(x0, noise, t)
    torch.testing.assert_close(noised, scheduler.add_noise(x0, noise, t), rtol=5e-4, atol=5e-4)
    velocity = process.target(x0, noise, t, "v_prediction")
    torch.testing.assert_close(
        velocity, scheduler.get_velocity(x0, noise, t), rtol=5e-4, atol=5e-4
    )


def test_other_targets_are_the_noise_and_the_image(batch):
    x0, noise, t = batch
    process = VPConfig().build()
    assert torch.equal(process.target(x0, noise, t, "epsilon"), noise)
    assert torch.equal(process.target(x0, noise, t, "sample"), x0)


@every_prediction
def test_a_perfect_output_gives_back_the_image(prediction_type, batch):
    x0, noise, _ = batch
    t = torch.tensor([0, 10, 300, 600])
    process = VPConfig().build()
    x_t = process.add_noise(x0, noise, t)
    output = process.target(x0, noise, t, prediction_type)
    recovered = process.predict_x0(x_t, output, t, prediction_type)
    torch.testing.assert_close(recovered, x0, rtol=1e-4, atol=1e-4)


def test_noising_keeps_the_variance_of_unit_data():
    generator = torch.Generator().manual_seed(0)
    x0, noise = torch.randn(2, 1000, 64, generator=generator)
    noised = VPConfig().build().add_noise(x0, noise, torch.arange(1000))
    assert noised.var().item() == pytest.approx(1, abs=0.02)


def test_the_noise_of_independent_noisings_has_the_variance_of_section_3_1():
    process, t = VPConfig().build(), 400
    alpha = process.alpha_bar[t + 1] / process.alpha_bar[t]
    psi = 2 - process.alpha_bar[t] * (1 + alpha)
    assert psi == pytest.approx(1.614, abs=5e-4)
    generator = torch.Generator().manual_seed(0)
    first, second = torch.randn(2, 200_000, 1, generator=generator)
    x0 = torch.zeros_like(first)
    later = process.add_noise(x0, second, torch.full((200_000,), t + 1))
    delta = later - process.add_noise(x0, first, torch.full((200_000,), t))
    assert delta.var().item() == pytest.approx(psi, rel=0.01)


def test_the_tables_cannot_be_changed_and_the_process_can_be_copied(batch):
    process = VPConfig().build()
    with pytest.raises(ValueError, match="read-only"):
        process.alpha_bar[0] = 1
    copied = copy.deepcopy(process)
    assert torch.equal(copied.add_noise(*batch), process.add_noise(*batch))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            {"schedule": "sigmoid"},
            "noise.schedule must be one of 'linear', 'quad', 'cosine', 'scaled_linear' or 'const'"
            ", got 'sigmoid'",
        ),
        ({"timesteps": 49}, "noise.timesteps must be at least 50, got 49"),
        ({"timesteps": 20_000}, "noise.timesteps must be at most 10000, got 20000"),
        ({"timesteps": 99.5}, "noise.timesteps must be an integer, got 99.5"),
        ({"timesteps": float("nan")}, "noise.timesteps must be a finite number, got nan"),
        ({"timestep": 100}, "noise.timestep is not a known key; did you mean 'timesteps'?"),
    ],
)
def test_a_wrong_config_is_refused_in_one_line(data, message):
    with pytest.raises(UserError) as error:
        parse(VPConfig, data, "noise")
    assert str(error.value).startswith(message)
