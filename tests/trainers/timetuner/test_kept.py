"""What is the same for many trials is evaluated once, as the denoiser itself counts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from stepsearch.sampling.timetuner import SolverConfig
from tests.trainers.timetuner.conftest import heard
from trainers.subject import subject_of
from trainers.tuned_scores import scores, untuned_losses

CPU = torch.device("cpu")


@pytest.fixture
def evaluations(config: Any) -> Iterator[list[torch.Size]]:
    """The shapes that the denoiser was given so far."""
    seen: list[torch.Size] = []
    denoiser = subject_of(config().checkpoint, config().dataset, CPU).denoiser
    with denoiser.register_forward_pre_hook(lambda _module, given: seen.append(given[0].shape)):
        yield seen


def test_a_teacher_draws_once_for_all_samplers(
    config: Any, evaluations: list[torch.Size], tmp_path: Path
) -> None:
    images = torch.linspace(-1, 1, 8 * 64).view(8, 1, 8, 8)

    def gap(seed: int, **fields: Any) -> float:
        made = config(score="teacher", teacher={"num_steps": 8}, **fields)
        return scores(made, images, seed, "cpu", tmp_path / "cache")["gap"]

    found = {
        gap(81),
        *(gap(81, sampler={"kind": kind}) for kind in ("euler", "dpmpp_2m", "unipc", "heun")),
        gap(81, times={"r": (0.1,) * 4}),
        gap(81),
    }
    assert len(found) == 1
    assert evaluations == [(8, 1, 8, 8)] * 8
    assert gap(82) not in found
    assert len(evaluations) == 16


def test_a_networks_gamma_is_measured_once_for_a_sampler(
    config: Any, evaluations: list[torch.Size]
) -> None:
    at = subject_of(config().checkpoint, config().dataset, CPU)
    ten = SolverConfig(kind="analytic_ddpm", num_steps=10)
    first, again = (at.network(ten, "embedding").solver.scheduler.gamma for _ in range(2))
    assert torch.equal(first, again)
    assert evaluations == [(512, 1, 8, 8)] * 10
    five = at.network(ten.model_copy(update={"num_steps": 5}), "embedding").solver
    assert len(evaluations) == 15
    # T - 1, T - T/5 - 1 ...: every other one of the ten
    torch.testing.assert_close(five.scheduler.gamma, first[::2])


def test_gamma_is_that_of_images_from_everywhere_in_the_set(config: Any) -> None:
    """A folder a class is read class by class."""
    at = subject_of(config().checkpoint, config().dataset, CPU)
    blank = torch.full((512, 1, 8, 8), -1.0)
    ten = SolverConfig(kind="analytic_ddpm", num_steps=10)
    of_blanks, of_both = (
        replace(at, images=images, _gammas={}).network(ten, "embedding").solver.scheduler.gamma
        for images in (blank, torch.cat([blank, at.images[:512]]))
    )
    assert not torch.allclose(of_blanks, of_both, rtol=1e-3)


def test_a_trial_looks_at_its_own_losses_with_two_evaluations_a_slot(
    config: Any, trial: Any, evaluations: list[torch.Size]
) -> None:
    def looks(*r: float) -> int:
        """At the one held-out batch of 8."""
        evaluations.clear()
        heard(trial(config(times={"r": r})))
        return evaluations.count(torch.Size((8, 1, 8, 8)))

    untuned_losses.cache_clear()
    assert looks(0.1, 0, 0, 0) == 2 * (1 + 2 * 4)
    assert looks(0.2, 0, 0, 0) == 1 + 2 * 4
    assert looks() == 0


def test_of_a_large_set_a_part_is_kept(config: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    subject_of.cache_clear()
    monkeypatch.setattr("trainers.subject._MOST", 100)
    at = subject_of(config().checkpoint, config().dataset, CPU)
    subject_of.cache_clear()
    train = config().dataset.load().train
    places = [int((train == image).flatten(1).all(1).nonzero()[0]) for image in at.images]
    assert len(set(places)) == 100 < len(train)
    assert places == sorted(places)
    assert max(places) > len(train) / 2 > min(places)
