"""Zero terminal SNR, EDM and rectified flow by their papers, and wrong fields."""

from typing import get_args

import numpy as np
import pytest
import torch
from diffusers import EDMEulerScheduler, FlowMatchEulerDiscreteScheduler
from diffusers.schedulers.scheduling_ddim import rescale_zero_terminal_snr

from stepsearch.config import parse
from stepsearch.diffusion.noise import (
    PROCESSES,
    EDMConfig,
    FlowConfig,
    Schedule,
    VPConfig,
)
from stepsearch.errors import UserError
from stepsearch.strategies import STRATEGIES
from stepsearch.strategies.base import x0_errors
from tests.diffusion.conftest import batch

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
