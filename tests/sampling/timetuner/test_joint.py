"""Noise levels of one's own, and those that are tuned with tau: in order, and closer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from stepsearch.diffusion.noise import VPConfig
from stepsearch.errors import UserError
from stepsearch.sampling.timetuner import (
    EndToEndConfig,
    Network,
    SolverConfig,
    compare,
    draw,
    evaluate,
    tune_jointly,
)
from stepsearch.sampling.timetuner.draw import sample
from tests.sampling.timetuner.exact import beside
from tests.sampling.timetuner.in_range import SHAPE, InRange

PROCESS = VPConfig().build()
NOISE = PROCESS.scheduler_config()
MOVABLE = {
    "ddim": "trailing",
    "euler": "edm",
    "heun": "quadratic",
    "dpm_solver_2": "log_snr",
    "dpmpp_2m": "leading",
    "unipc": "dmn",
}
SMALL: dict[str, Any] = {"iterations": 30, "batch_size": 64, "real": 256, "held_out": 512}


def smooth(x: Tensor, t: Tensor, nominal: Tensor) -> Tensor:
    return torch.tanh(x) * (0.5 + beside(t, x) / 2000)


LOG_SIGMA = torch.tensor(np.log(1 / PROCESS.alpha_bar - 1) / 2)


def gaussian(x: Tensor, t: Tensor, nominal: Tensor) -> Tensor:
    """The network of data N(0, 1/16 I)."""
    t = beside(t, x)
    low = t.detach().floor().long().clamp(0, 998)
    log_sigma = LOG_SIGMA[low] + (t - low) * (LOG_SIGMA[low + 1] - LOG_SIGMA[low])
    noise = torch.sigmoid(2 * log_sigma)
    eps: Tensor = x * (noise.sqrt() / ((1 - noise) / 16 + noise)).float()
    return eps


def under(run: Any) -> Callable[[SolverConfig], Network]:
    return lambda sampler: Network(run, sampler.build(NOISE, "epsilon"))


def data(n: int = 1024) -> Tensor:
    return 0.25 * torch.randn((n, 1, 2, 2), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("kind", MOVABLE)
def test_levels_of_a_trajectory_that_are_given_draw_its_images(kind: Any) -> None:
    """To the last bit, before any clamp; DDIM is of another class then."""
    sampler = SolverConfig(kind=kind, num_steps=4, trajectory=MOVABLE[kind])
    build = under(evaluate(InRange().eval()))
    known = build(sampler)
    own = sampler.at(known.solver.levels)
    assert own.trajectory == "given"
    x = torch.randn((3, *SHAPE), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        images, expected = (
            sample(network, known.solver.times, x, None) for network in (build(own), known)
        )
    tolerance = 2e-5 if kind == "ddim" else 0
    torch.testing.assert_close(images, expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("kind", MOVABLE)
def test_the_gradient_of_the_levels_is_the_difference_of_moved_ones(kind: Any) -> None:
    sampler = SolverConfig(kind=kind, num_steps=4, trajectory=MOVABLE[kind])
    network = under(smooth)(sampler.at(under(smooth)(sampler).solver.levels))
    x = torch.randn((4, 1, 4, 4), generator=torch.Generator().manual_seed(1))

    def result(times: Tensor) -> Tensor:
        moved = network.under(network.solver.moved(times))
        return sample(moved, network.solver.times, x, None).square().sum()

    times = network.solver.times.clone().requires_grad_()
    (slope,) = torch.autograd.grad(result(times), times)
    steps = torch.eye(len(times)) * 0.5
    found = [float(result(times.detach() + e) - result(times.detach() - e)) for e in steps]
    # the highest level stays, and so does one at the process's lowest
    inner = (times > 0) & (times < 900)
    torch.testing.assert_close(slope[inner], torch.tensor(found)[inner], rtol=0.05, atol=2e-2)
    assert (slope[inner] != 0).all()


def test_a_gaussian_comes_closer_and_the_ends_stay() -> None:
    sampler = SolverConfig(num_steps=4, trajectory="quadratic_continuous")
    moved = tune_jointly(under(gaussian), sampler, data(), EndToEndConfig(**SMALL, tune_last=True))
    before_it = under(gaussian)(sampler).solver
    before, after = moved.tuned.distance or (0, 0)
    assert after < 0.3 * before
    levels, solver = moved.sampler.levels, moved.network.solver
    assert moved.sampler.trajectory == "given"
    assert levels == solver.levels
    assert np.all(np.diff(levels) < 0)
    old, old_times = before_it.levels, before_it.times
    assert (levels[0], levels[-1]) == (old[0], old[-1])
    assert all(new != was for new, was in zip(levels[1:-1], old[1:-1], strict=True))
    assert torch.equal(moved.tuned.untuned, solver.times)
    assert not torch.equal(moved.tuned.tau, solver.times)

    def spread(images: Tensor, seed: int) -> float:
        return abs(float(images.std()) - 0.25)

    verdict = compare(
        *("spread", spread, moved.network, moved.tuned.tau, [1], 512, (1, 2, 2)),
        before=under(gaussian)(sampler),
    )
    untuned = draw(under(gaussian)(sampler), old_times, 512, shape=(1, 2, 2), seed=1)
    assert verdict.untuned == (spread(untuned, 1),)
    assert verdict.tuned[0] < 0.5 * verdict.untuned[0]


@pytest.mark.parametrize("kind", MOVABLE)
def test_every_sampler_with_levels_comes_closer_and_keeps_their_order(kind: Any) -> None:
    sampler = SolverConfig(kind=kind, num_steps=4, trajectory=MOVABLE[kind])
    config = EndToEndConfig(**SMALL, lr=0.1, wave=0)
    moved = tune_jointly(under(gaussian), sampler, data(), config)
    solver = moved.network.solver
    assert solver.num_steps == 4
    assert np.all(np.diff(solver.levels) < 0)
    assert len(moved.tuned.tau) == len(moved.tuned.untuned) == solver.nfe
    assert ((moved.tuned.tau >= 0) & (moved.tuned.tau <= 999)).all()
    before, after = moved.tuned.distance or (0, 0)
    assert after < 0.1 * before


def test_what_is_not_finite_leaves_the_sampler_as_it_was() -> None:
    sampler = SolverConfig(num_steps=4)
    broken = under(lambda x, t, nominal: x * t.mean() * float("nan"))
    moved = tune_jointly(broken, sampler, data(), EndToEndConfig(**SMALL | {"iterations": 2}))
    assert moved.sampler == sampler
    assert torch.equal(moved.tuned.tau, broken(sampler).solver.times)
    assert moved.tuned.iterations == (0, 0, 0, 0)


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "ddpm": ({"kind": "ddpm"}, "sampler.trajectory must be one of leading, leading_1, trailing, "
             "linspace, quadratic for ddpm, got 'given'"),
    "clip": ({"clip_sample": True}, "sampler.clip_sample must be false except for ddim on a "
             "uniform trajectory, ddpm and analytic samplers, got true for ddim on given"),
    "eta": ({"eta": 0.5}, "sampler.eta must be 0 except for ddim on a uniform trajectory and "
            "analytic_ddim, got 0.5 for ddim on given"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_samplers_without_levels_of_their_own_are_refused(case: str) -> None:
    fields, line = REFUSED[case]
    with pytest.raises(UserError) as error:
        tune_jointly(under(smooth), SolverConfig(num_steps=4, **fields), data(), EndToEndConfig())
    assert str(error.value) == line


def test_a_consistency_model_and_one_image_are_refused() -> None:
    with pytest.raises(
        UserError, match=r"^sampler.trajectory must be one of leading, .* for cm, "
    ):
        SolverConfig(kind="cm", num_steps=2).at([5, 1, 0]).build({}, "sample")
    with pytest.raises(UserError, match="images must be at least two to tune on, got 1"):
        tune_jointly(under(smooth), SolverConfig(), data(1), EndToEndConfig())


FALL = "sampler.levels must fall within the process's 157.4 ... 0.01, or to 0 at last, got "
LENGTH = "sampler.levels must be num_steps + 1 numbers for trajectory given and none for others, "


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({"levels": (5, 1)}, LENGTH + "got 2 for 3 steps on given"),
        ({"levels": (5, 1, 0.5, 0), "trajectory": "edm"}, LENGTH + "got 4 for 3 steps on edm"),
        ({"levels": (5, 1, 1, 0)}, FALL + "5, 1, 1, 0"),
        ({"levels": (500, 5, 1, 0)}, FALL + "500, 5, 1, 0"),
        ({"levels": (5, 1, 0, 0)}, FALL + "5, 1, 0, 0"),
        ({"levels": (5, 1, 0.5, 0.001)}, FALL + "5, 1, 0.5, 0.001"),
        (
            {"levels": (5, 1, 0.5, 0), "kind": "dpm_solver_2"},
            "sampler.levels must end above 0 for dpm_solver_2, got 0 at last",
        ),
    ],
)
def test_levels_that_cannot_be_run_are_refused(fields: dict[str, Any], line: str) -> None:
    with pytest.raises(UserError) as error:
        under(smooth)(SolverConfig(num_steps=3, **{"trajectory": "given"} | fields))
    assert str(error.value) == line
