"""The solvers against the unmodified schedulers of diffusers, against each other and by hand."""

from __future__ import annotations

import math
import warnings
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from torch import Tensor

from stepsearch.config import parse
from stepsearch.diffusion.seeds import generator
from stepsearch.errors import UserError
from stepsearch.sampling.sampler import SamplerConfig, generate
from stepsearch.sampling.timetuner import (
    KINDS,
    TRAJECTORIES,
    Network,
    SolverConfig,
    draw,
    evaluate,
    knots,
)
from tests.sampling.timetuner.in_range import ALPHA_BAR, NOISE, PROCESS, SHAPE, InRange, inside


@pytest.fixture(scope="module")
def denoiser() -> Any:
    return InRange().eval()


def sample(denoiser: Any, tau: Any = None, gamma: Any = None, **fields: Any) -> Tensor:
    """What is drawn before it would be clamped to [-1, 1]."""
    solver = SolverConfig(**fields).build(NOISE, "epsilon", gamma)
    network = Network(evaluate(denoiser), solver, latents=True)
    return draw(network, solver.times if tau is None else tau, 3, shape=SHAPE, seed=0)


def assert_same(images: Tensor, expected: Tensor, tolerance: float) -> None:
    """Within a share of the largest pixel, which is one of an image and not of noise."""
    largest = float(expected.abs().max())
    assert 0.3 < largest < 1
    torch.testing.assert_close(images, expected, rtol=0, atol=tolerance * largest)


@pytest.mark.parametrize("kind", ["ddim", "ddpm"])
def test_untuned_it_draws_the_images_on_which_trials_are_judged(kind: Any, denoiser: Any) -> None:
    config = SamplerConfig(kind=kind, eta=0.5 if kind == "ddim" else 0)
    expected = generate(
        denoiser, PROCESS, config, 3, shape=SHAPE, prediction_type="epsilon", seed=0
    )
    fields = {"eta": 0.5} if kind == "ddim" else {"variance": "small"}
    images = sample(denoiser, kind=kind, clip_sample=True, **fields)
    assert torch.equal(images, expected)
    assert inside(images) > 0.9


def theirs(scheduler: Any, denoiser: Any, n: int = 3, **steps: Any) -> Tensor:
    """What a diffusers scheduler draws by itself from the same x_T."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        scheduler.set_timesteps(**steps)
    start = generate_noise(n)
    x = start * scheduler.init_noise_sigma
    with torch.no_grad():
        for t in scheduler.timesteps:
            output = denoiser(scheduler.scale_model_input(x, t), t).sample
            x = scheduler.step(output, t, x).prev_sample
    return x


def generate_noise(n: int) -> Tensor:
    return torch.cat(
        [torch.randn(1, *SHAPE, generator=generator("image", 0, i)) for i in range(n)]
    )


QUADRATIC = [800, 632, 483, 355, 246, 158, 88, 39, 9, 0]
LINSPACE = [999, 888, 777, 666, 555, 444, 333, 222, 111, 0]
UNMODIFIED = {
    "ddim, leading": ("DDIMScheduler", {"clip_sample": False}, 10, {"trajectory": "leading"}),
    "euler, leading": ("EulerDiscreteScheduler", {"timestep_spacing": "leading"}, 10,
                       {"kind": "euler", "trajectory": "leading"}),
    "euler, quadratic": ("EulerDiscreteScheduler", {"timestep_spacing": "leading"}, QUADRATIC,
                         {"kind": "euler", "trajectory": "quadratic"}),
    "heun, quadratic": ("HeunDiscreteScheduler", {"timestep_spacing": "leading"}, QUADRATIC,
                        {"kind": "heun", "trajectory": "quadratic"}),
    "dpmpp_2m, linspace": ("DPMSolverMultistepScheduler", {}, LINSPACE,
                           {"kind": "dpmpp_2m", "trajectory": "linspace"}),
    "unipc, trailing": ("UniPCMultistepScheduler", {"timestep_spacing": "trailing"}, 10,
                        {"kind": "unipc", "trajectory": "trailing"}),
    "heun, trailing": ("HeunDiscreteScheduler", {"timestep_spacing": "trailing"}, 10,
                       {"kind": "heun", "trajectory": "trailing"}),
}  # fmt: skip


@pytest.mark.parametrize("case", UNMODIFIED)
def test_untuned_solvers_are_diffusers_schedulers(case: str, denoiser: Any) -> None:
    name, options, steps, fields = UNMODIFIED[case]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        scheduler = getattr(diffusers, name)(**NOISE, **options)
    given = {"timesteps": steps} if isinstance(steps, list) else {"num_inference_steps": steps}
    expected = theirs(scheduler, denoiser, **given)
    # Heun's corrector makes 1e-4 of the last bit of a noise level
    assert_same(sample(denoiser, **fields), expected, 3e-4 if "heun" in case else 2e-5)
    if case == "ddim, leading":
        assert torch.equal(sample(denoiser, **fields), expected)


def ddim_by_hand(denoiser: Any, sigmas: list[float], tau: Tensor) -> Tensor:
    """Eq. 7 of TimeTuner, coefficient by coefficient."""
    x = generate_noise(3).double()
    with torch.no_grad():
        for k, told in enumerate(tau):
            a, s = (1 / math.sqrt(1 + sigmas[k] ** 2), sigmas[k] / math.sqrt(1 + sigmas[k] ** 2))
            b, r = 1 / math.sqrt(1 + sigmas[k + 1] ** 2), sigmas[k + 1]
            eps = denoiser(x.float(), told).sample
            x = b / a * x - (b * s / a - r * b) * eps
    return x.float()


@pytest.mark.parametrize("trajectory", TRAJECTORIES)
def test_ddim_is_eq_7_on_every_trajectory(trajectory: Any, denoiser: Any) -> None:
    """tau changes what the network is told and no coefficient; Euler and order-1 DPM++ agree."""
    found = knots(trajectory, 10, ALPHA_BAR)
    tau = torch.tensor(found.times, dtype=torch.float32) * 0.93
    expected = ddim_by_hand(denoiser, found.sigmas.tolist(), tau)
    assert_same(sample(denoiser, tau, trajectory=trajectory), expected, 6e-5)
    # Euler's state is x0 + sigma eps, at the end too
    expected = expected * math.sqrt(1 + found.sigmas[-1] ** 2)
    assert_same(sample(denoiser, tau, kind="euler", trajectory=trajectory), expected, 6e-5)


def test_dpm_solver_2_takes_its_second_evaluation_in_the_middle_of_log_snr(denoiser: Any) -> None:
    """r1 = 1/2 on a log-SNR trajectory, by the formula of the paper; one step, two slots."""
    tau = torch.tensor([980.0, 300.0])
    found = knots("log_snr", 2, ALPHA_BAR)
    a, s = (1 / np.sqrt(1 + found.sigmas**2), found.sigmas / np.sqrt(1 + found.sigmas**2))
    h = np.log(a[2] / s[2]) - np.log(a[0] / s[0])
    x = generate_noise(3).double()
    with torch.no_grad():
        first = denoiser(x.float(), tau[0]).sample
        u = a[1] / a[0] * x - s[1] * math.expm1(h / 2) * first
        second = denoiser(u.float(), tau[1]).sample
    x = a[2] / a[0] * x - s[2] * math.expm1(h) * first - s[2] * math.expm1(h) * (second - first)
    images = sample(denoiser, tau, kind="dpm_solver_2", num_steps=2, trajectory="log_snr")
    # no image, in two evaluations: all terms are as large as the result
    tolerance = 3e-5 * float(x.abs().max())
    torch.testing.assert_close(images, x.float(), rtol=0, atol=tolerance)


RUNS: dict[str, dict[str, Any]] = {
    **{kind: {"kind": kind, "trajectory": "linspace"} for kind in KINDS},
    "dpm_solver_2": {"kind": "dpm_solver_2", "trajectory": "log_snr"},
    "ddim, eta": {"kind": "ddim", "eta": 0.5},
}


@pytest.mark.parametrize("case", RUNS)
def test_a_sampler_says_whether_its_steps_add_noise(case: str) -> None:
    config = SolverConfig(num_steps=4, **RUNS[case])
    solver = config.build({} if case == "cm" else NOISE, "epsilon", torch.full((4,), 0.9))
    ends = []
    for seed in (0, 1):
        state, chance = solver.start(generate_noise(2)), torch.Generator().manual_seed(seed)
        for _ in range(solver.nfe):
            state = solver.advance(state, torch.tanh(solver.look(state)), chance)
        ends.append(state.x)
    assert torch.equal(*ends) == (not config.stochastic)


@pytest.mark.parametrize(
    ("target", "kind"), [("v_prediction", "ddim"), ("sample", "dpmpp_2m"), ("sample", "unipc")]
)
def test_the_eps_of_other_targets_is_that_of_the_scheduler(target: str, kind: Any) -> None:
    """A network that knows the only image there is sees its noise, whatever it predicts."""
    solver = SolverConfig(kind=kind, num_steps=5).build(NOISE, target)
    chance = torch.Generator().manual_seed(0)
    x0 = torch.rand(2, *SHAPE, generator=chance) * 2 - 1
    noise = torch.randn(2, *SHAPE, generator=chance)
    a, s = solver.scales[1]
    state = solver.noised(0, x0, noise)
    assert state.slot == 0
    x = a * x0 + s * noise
    output = x0 if target == "sample" else a * noise - s * x0
    torch.testing.assert_close(solver.eps(1, x, output), noise, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("trajectory", ["trailing", "quadratic", "log_snr"])
def test_eq_11_begins_at_the_noised_image_where_steps_remember_nothing(trajectory: Any) -> None:
    """DDIM: alpha x0 + sigma eps at the slot itself, whichever class runs it; 2M: one before."""
    chance = torch.Generator().manual_seed(0)
    x0, noise = (torch.randn(2, *SHAPE, generator=chance) for _ in range(2))
    steps = {"num_steps": 5, "trajectory": trajectory}
    solver = SolverConfig(**steps).build(NOISE, "epsilon")
    for slot, sigma in enumerate(knots(trajectory, 5, ALPHA_BAR).sigmas[:-1]):
        state = solver.noised(slot, x0, noise)
        assert state.slot == slot
        scale = math.sqrt(1 + sigma**2)
        torch.testing.assert_close(state.x, x0 / scale + sigma / scale * noise, rtol=0, atol=1e-6)
        # its step is eq. 7's from there
        stepped = solver.advance(state, noise).x
        a, s = solver.scales[slot + 1]
        torch.testing.assert_close(stepped, a * x0 + s * noise, rtol=0, atol=1e-4)
    remembers = SolverConfig(kind="dpmpp_2m", **steps).build(NOISE, "epsilon")
    assert [remembers.noised(k, x0, noise).slot for k in range(3)] == [0, 0, 1]


def test_analytic_ddim_without_anything_to_learn_is_ddim(denoiser: Any) -> None:
    """gamma = 1 says that x0 is known, and eta = 0 that no noise is wanted."""
    steps = {"num_steps": 5, "trajectory": "linspace"}
    images = sample(denoiser, gamma=torch.ones(5), kind="analytic_ddim", **steps)
    assert_same(images, sample(denoiser, **steps), 3e-5)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_steps": 1200}, "sampler.num_steps must be at most 1000 (T), got 1200"),
        ({"num_steps": 30}, "sampler.num_steps must divide T = 1000 for trailing, got 30"),
        (
            {"num_steps": 1, "trajectory": "linspace"},
            "sampler.num_steps must be at least 2 on linspace, whose one step would begin at the "
            "least noise, got 1",
        ),
        (
            {"num_steps": 1000, "trajectory": "leading_1"},
            "sampler.num_steps must give leading_1 timesteps that fall and end within 0..999, "
            "got 1000",
        ),
        (
            {"num_steps": 400, "trajectory": "quadratic"},
            "sampler.num_steps must give quadratic timesteps that fall and end within 0..999, "
            "got 400",
        ),
        (
            {"kind": "ddpm", "trajectory": "log_snr"},
            "sampler.trajectory must be one of leading, leading_1, trailing, linspace, quadratic "
            "for ddpm, got 'log_snr'",
        ),
        (
            {"kind": "dpm_solver_2"},
            "sampler.trajectory must be one of quadratic_continuous, log_snr, ays, gits, "
            "score_optimal, dmn, dmn_latent, given for dpm_solver_2, got 'trailing'",
        ),
        (
            {"clip_sample": True, "kind": "unipc"},
            "sampler.clip_sample must be false except for ddim on a uniform trajectory, ddpm and "
            "analytic samplers, got true for unipc on trailing",
        ),
        (
            {"eta": 0.5, "trajectory": "quadratic"},
            "sampler.eta must be 0 except for ddim on a uniform trajectory and analytic_ddim, got "
            "0.5 for ddim on quadratic",
        ),
        (
            {"kind": "cm", "eta": 0.5},
            "sampler.eta must be 0 except for ddim on a uniform trajectory and analytic_ddim, got "
            "0.5 for cm on trailing",
        ),
        (
            {"kind": "analytic_ddim", "num_steps": 5},
            "analytic_ddim needs gamma, E||eps||^2 / d of the network at each of the 5 timesteps "
            "(measure_gamma)",
        ),
    ],
)
def test_what_cannot_run_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        SolverConfig(**fields).build(NOISE, "epsilon")
    assert str(error.value) == message


def test_a_target_that_is_none_of_the_three_is_refused() -> None:
    message = r"^prediction_type must be one of epsilon, v_prediction, sample, got 'flow'$"
    with pytest.raises(UserError, match=message):
        SolverConfig().build(NOISE, "flow")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kind": "plms"}, f"kind must be one of {', '.join(map(repr, KINDS[:-1]))} or 'cm'"),
        ({"num_steps": 0}, "num_steps must be at least 1, got 0"),
        ({"trajectory": "cubic"}, "trajectory must be one of 'leading', "),
        ({"levels": [1, "low"]}, "levels[1] must be a number, got 'low'"),
        ({"levels": 1}, "levels must be a list, got 1"),
        ({"clip_sample": 3}, "clip_sample must be true or false, got 3"),
        ({"guidance": -1}, "guidance must be at least 0, got -1"),
        ({"guidance": 101}, "guidance must be at most 100, got 101"),
        ({"guidance": "strong"}, "guidance must be a number, got 'strong'"),
        ({"eta": -0.5}, "eta must be at least 0, got -0.5"),
        ({"eta": 1.5}, "eta must be at most 1, got 1.5"),
        ({"variance": "huge"}, "variance must be one of 'small' or 'large', got 'huge'"),
        ({"steps": 3}, "steps is not a known key"),
    ],
)
def test_bad_fields_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        parse(SolverConfig, fields, "sampler")
    assert str(error.value).startswith(f"sampler.{message}")
