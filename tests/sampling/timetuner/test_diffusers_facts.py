"""What TimeTuner relies on in diffusers: to be noticed when an upgrade changes it."""

from __future__ import annotations

from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor

from stepsearch.sampling.timetuner.tuned_timesteps import quiet

# their steps use a timestep only to find the first index, and their coefficients the sigmas
BY_SIGMA = [
    "CMStochasticIterativeScheduler",
    "DEISMultistepScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "EDMDPMSolverMultistepScheduler",
    "EDMEulerScheduler",
    "EulerAncestralDiscreteScheduler",
    "EulerDiscreteScheduler",
    "FlowMatchEulerDiscreteScheduler",
    "FlowMatchHeunDiscreteScheduler",
    "HeunDiscreteScheduler",
    "IPNDMScheduler",
    "KDPM2DiscreteScheduler",
    "LMSDiscreteScheduler",
    "UniPCMultistepScheduler",
]


def scheduler(name: str, steps: int = 6) -> Any:
    with quiet():
        made = getattr(diffusers, name)()
        made.set_timesteps(steps)
    return made


def sample(scheduler: Any, times: Tensor, told: Tensor) -> Tensor:
    """A small network's samples; it is told `told` while the scheduler is handed `times`."""
    torch.manual_seed(0)
    x = torch.randn(2, 1, 4, 4)
    scheduler.set_begin_index(0)
    for time, tau in zip(times, told, strict=True):
        seen = scale(scheduler, x, time)
        output = torch.tanh(seen * torch.cos(tau.float() / 300))
        with quiet():
            x = scheduler.step(output, time, x).prev_sample
    return x


def scale(scheduler: Any, x: Tensor, time: Tensor) -> Tensor:
    if not hasattr(scheduler, "scale_model_input"):
        return x
    seen: Tensor = scheduler.scale_model_input(x, time)
    return seen


@pytest.mark.parametrize("name", BY_SIGMA)
def test_overwritten_timesteps_change_what_the_network_is_told_and_nothing_else(name: str) -> None:
    nominal = scheduler(name).timesteps.clone()
    tau = nominal.float() * 0.93 + 1.7
    hooked = sample(scheduler(name), nominal, tau)
    overwritten = scheduler(name)
    overwritten.timesteps = tau
    assert torch.equal(sample(overwritten, tau, tau), hooked)
    assert not torch.equal(hooked, sample(scheduler(name), nominal, nominal))


def test_sa_solver_adds_noise_by_what_the_network_is_told() -> None:
    """Its noise is on between 200 and 800, so that it needs the hook."""
    made = scheduler("SASolverScheduler")
    assert [made.tau_func(t) for t in (199, 200, 800, 801)] == [0, 1, 1, 0]
    nominal = made.timesteps.clone()
    tau = nominal.float() * 0.93 + 1.7
    hooked = sample(made, nominal, tau)
    overwritten = scheduler("SASolverScheduler")
    overwritten.timesteps = tau
    assert not torch.equal(sample(overwritten, tau, tau), hooked)


@pytest.mark.parametrize(
    "name", ["DDIMScheduler", "DDPMScheduler", "LCMScheduler", "TCDScheduler"]
)
def test_other_schedulers_look_their_coefficients_up_by_the_timestep(name: str) -> None:
    made = scheduler(name)
    x = torch.zeros(1, 1, 4, 4)
    with pytest.raises((IndexError, TypeError)):
        made.step(x, torch.tensor(700.3), x)


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("EulerDiscreteScheduler", True),
        ("HeunDiscreteScheduler", True),
        ("DPMSolverMultistepScheduler", False),
        ("DPMSolverSinglestepScheduler", False),
    ],
)
def test_custom_timesteps_are_mostly_cut_to_integers(name: str, kept: bool) -> None:
    made = scheduler(name)
    with quiet():
        made.set_timesteps(timesteps=[900.7, 450.2, 20.9])
    assert made.timesteps[0].item() == pytest.approx(900.7 if kept else 900)


def test_a_time_that_comes_twice_needs_a_begin_index() -> None:
    made = scheduler("EulerDiscreteScheduler", 2)
    made.timesteps = torch.tensor([900.0, 900.0])
    made._init_step_index(made.timesteps[0])
    assert made.step_index == 1
    made.set_begin_index(0)
    made._init_step_index(made.timesteps[0])
    assert made.step_index == 0
