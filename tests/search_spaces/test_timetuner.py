"""The space of tau: what is tried first, that proposals keep the order, and what is refused."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.trial import FixedTrial

import run_search
from search_spaces import FixedPoint, TimeTunerSpace, TrainerFacts, space
from stepsearch.diffusion.datasets import DigitsConfig, LatentsConfig
from stepsearch.diffusion.noise import VPConfig
from stepsearch.errors import UserError
from stepsearch.sampling.timetuner import ShiftedTimes, SolverConfig
from stepsearch.study import (
    CmaEsConfig,
    GpConfig,
    Objective,
    OptunaSamplerConfig,
    Study,
    TpeConfig,
)
from trainers.timetuner import TimesConfig

ALPHA_BAR = VPConfig().build().alpha_bar
SEVERAL: dict[str, Any] = {
    "kind": "timetuner",
    "samplers": [{"kind": "ddim", "clip_sample": True}, {"kind": "heun", "trajectory": "edm"}],
    "num_steps": [4, 5],
    "gradient": ["sequential", "parallel"],
}
SINGLE: dict[str, Any] = {"kind": "timetuner", "num_steps": [5]}


@pytest.fixture
def facts() -> TrainerFacts:
    return TrainerFacts("timetuner", ALPHA_BAR)


def times_of(proposed: dict[str, Any]) -> tuple[SolverConfig, TimesConfig]:
    """As the trainer will have them, after a way through JSON."""
    data = json.loads(json.dumps(proposed))
    assert data.keys() == {"sampler", "times"}
    sampler = SolverConfig.model_validate(data["sampler"])
    return sampler, TimesConfig.model_validate(data["times"])


def tau(sampler: SolverConfig, times: TimesConfig) -> np.ndarray[Any, Any]:
    shifted = ShiftedTimes(sampler.times(ALPHA_BAR).tolist(), 0, len(ALPHA_BAR) - 1)
    return shifted.times(times.r)


def build(member: Any, point: FixedPoint, facts: TrainerFacts) -> tuple[SolverConfig, TimesConfig]:
    return times_of(member.suggest(FixedTrial(dict(point.params)), facts))


def test_guidance_is_a_case_of_its_own_for_a_denoiser_that_learned_no_class_too() -> None:
    guided = space(SINGLE | {"samplers": [{"guidance": 2}, {"guidance": 3.5}, {}]})
    names = ["ddim-trailing-guidance2-5", "ddim-trailing-guidance3.5-5", "ddim-trailing-5"]
    assert list(guided.cases) == names
    guided.check(TrainerFacts("timetuner", ALPHA_BAR, guides=True))
    with pytest.raises(UserError) as caught:
        guided.check(TrainerFacts("timetuner", ALPHA_BAR))
    assert str(caught.value) == (
        "timetuner.samplers must have guidance 1 for a denoiser that learned no null class, got"
        " ddim-trailing-guidance2-5"
    )


@pytest.mark.parametrize(
    ("sampler", "line"),
    [
        ({"clip_sample": True}, "ddim-trailing-clip-5: sampler.clip_sample must be false for "
         "latents, which are not in [-1, 1], got true"),
        ({"kind": "analytic_ddpm"}, "analytic_ddpm-trailing-5: sampler.kind must not be analytic "
         "for latents, as its variances are bounded by those of pixels in [-1, 1], got "
         "'analytic_ddpm'"),
    ],
)  # fmt: skip
def test_samplers_of_pixels_are_refused_for_latents(
    sampler: dict[str, Any], line: str, encoded: Path
) -> None:
    member = space(SINGLE | {"samplers": [sampler]})
    member.check(TrainerFacts("timetuner", ALPHA_BAR, data=DigitsConfig().load))
    with pytest.raises(UserError) as caught:
        member.check(TrainerFacts("timetuner", ALPHA_BAR, data=LatentsConfig(path=encoded).load))
    assert str(caught.value) == f"timetuner.samplers, {line}"


def test_levels_of_ones_own_are_cases_that_differ_by_them(facts: TrainerFacts) -> None:
    levels = ([9.0, 1.0, 0.1], [9.0, 2.0, 0.1], [9.0, 2.0, 0.0])
    own = [{"trajectory": "given", "num_steps": 2, "levels": each} for each in levels]
    member = space({"kind": "timetuner", "samplers": [*own, {"num_steps": 2}]})
    member.check(facts)
    *first, last = member.cases
    assert len(set(first)) == 3
    assert all(re.fullmatch(r"ddim-given-[0-9a-f]{6}-2", name) for name in first)
    assert last == "ddim-trailing-2"
    labels = [point.label for point in member.fixed(facts)]
    assert len(set(labels)) == len(labels) == 12
    assert list(space(json.loads(member.model_dump_json())).cases) == [*first, last]
    with pytest.raises(UserError, match=rf"be different cases, got {first[0]} twice$"):
        space({"kind": "timetuner", "samplers": [own[0], own[0]]})


def test_the_first_trials_are_untuned_to_the_last_bit(facts: TrainerFacts) -> None:
    member = space(SEVERAL)
    points = member.fixed(facts)
    assert [p.label for p in points[:5]] == [
        "untuned ddim-trailing-clip-4",
        "untuned ddim-trailing-clip-5",
        "untuned heun-edm-4",
        "untuned heun-edm-5",
        "gradient-sequential ddim-trailing-clip-4",
    ]
    assert len({point.label for point in points}) == len(points)
    for point in points[:4]:
        sampler, times = build(member, point, facts)
        assert not any(times.r)
        assert times.sequential == times.parallel == 0
        assert tau(sampler, times).tolist() == sampler.times(ALPHA_BAR).tolist()


def test_the_gradient_and_the_midpoints_come_next(facts: TrainerFacts) -> None:
    member = space(SINGLE)
    untuned, gradient, midpoints = member.fixed(facts)
    assert untuned.params == {
        "case": "ddim-trailing-5", "r0": 0, "r1": 0, "r2": 0, "r3": 0, "r4": 0, "end_to_end": 0,
    }  # fmt: skip
    _, times = build(member, gradient, facts)
    assert (times.end_to_end, any(times.r)) == (1, False)
    assert tau(*build(member, midpoints, facts)).tolist() == [899, 699, 499, 299, 99.5]
    without = space(SINGLE | {"r": [-0.2, 0.4], "gradient": []})
    assert [p.label for p in without.fixed(facts)] == ["untuned ddim-trailing-5"]


@pytest.mark.parametrize("data", [SINGLE, SEVERAL], ids=["single", "several"])
@pytest.mark.parametrize(
    "config",
    [TpeConfig(n_startup_trials=4, group=True), CmaEsConfig(), GpConfig(n_startup_trials=4)],
    ids=lambda config: config.kind,
)
def test_proposals_of_every_sampler_keep_the_order(
    data: dict[str, Any], config: OptunaSamplerConfig, facts: TrainerFacts
) -> None:
    member = space(data)
    study = optuna.create_study()
    for point in member.fixed(facts):
        study.enqueue_trial(dict(point.params))
    seen = set()
    for number in range(len(member.fixed(facts)) + 8):
        study.sampler = config.build(0, number)
        trial = study.ask()
        sampler, times = times_of(member.suggest(trial, facts))
        told = tau(sampler, times)
        assert np.all(np.diff(np.unique(sampler.times(ALPHA_BAR))) > 0)
        different = np.diff(sampler.times(ALPHA_BAR)) < 0
        assert np.all(np.diff(told)[different] < 0)
        seen.add(sampler.num_steps)
        study.tell(trial, float(np.square(told - 500).mean()))
    assert seen == set(data["num_steps"])


@pytest.mark.parametrize("num_steps", [5, 20])
def test_cmaes_goes_on_from_the_gradients_solution(num_steps: int, facts: TrainerFacts) -> None:
    member = space(SINGLE | {"num_steps": [num_steps], "gradient": ["sequential", "end_to_end"]})
    points = member.fixed(facts)
    drawn = []
    objective, sampler = Objective("energy_ratio"), CmaEsConfig(sigma0=0.02)
    with Study.create(None, "hybrid", [objective], sampler, 0) as study:
        for point in points:
            study.enqueue(point.params, label=point.label)
        for _ in range(len(points) + 6):
            proposal = study.ask(lambda trial: member.suggest(trial, facts))
            assert proposal is not None
            label = proposal.attrs.get("label", "")
            study.tell(proposal.number, "finished", [0.5 if "end_to_end" in label else 1.0])
            if not label:
                drawn.append(proposal.params)
    (solution,) = (p.params for p in points if p.label.startswith("gradient-end_to_end"))
    numbers = [name for name in solution if name != "case"]
    assert len(numbers) == num_steps + 2
    for name in numbers:
        found = [params[name] for params in drawn]
        assert len(set(found)) > 1, f"{name} is driven"
        assert max(abs(value - solution[name]) for value in found) < 0.1, f"{name}: {found}"


def test_the_last_slot_can_be_left_alone_and_one_without_room_is(facts: TrainerFacts) -> None:
    trial = optuna.create_study().ask()
    space(SINGLE | {"tune_last": False}).suggest(trial, facts)
    assert [name for name in trial.params if name.startswith("r")] == ["r0", "r1", "r2", "r3"]
    trial = optuna.create_study().ask()
    leading = {"samplers": [{"trajectory": "leading"}]}
    space(SINGLE | leading).suggest(trial, facts)
    assert "r4" not in trial.params, "it is told t = 0, below which there is nothing"


def test_it_survives_json_and_may_be_given_by_its_name() -> None:
    member = space(SEVERAL)
    assert space(json.loads(member.model_dump_json())) == member
    assert isinstance(space("timetuner"), TimeTunerSpace)


def test_the_search_that_is_ready_to_run_has_room_for_proposals(facts: TrainerFacts) -> None:
    file = Path(run_search.__file__).parent / "search_spaces" / "timetuner_digits.yaml"
    config = run_search.load(file, [])
    config.space.check(facts)
    assert list(config.space.cases) == ["ddim-trailing-clip-5", "ddim-trailing-clip-10"]
    assert len(config.space.fixed(facts)) == 8 < config.budget.trials
    assert config.budget.milestones() == (1000,)
    assert config.trainer.checkpoint.name == "speed-digits"


@pytest.mark.parametrize(
    ("data", "line"),
    [
        ({"r": [-0.5, 0.5]}, "timetuner.r must be less than 1 wide, got (-0.5, 0.5)"),
        ({"r": [0.1, 0.5]},
         "timetuner.r must be a range that holds 0, the untuned times, got (0.1, 0.5)"),
        ({"r": [-1.5, 0]}, "timetuner.r must be a range inside -1..1, got (-1.5, 0)"),
        ({"gradient": ["parallel", "parallel"]},
         "timetuner.gradient must not repeat, got parallel, parallel"),
        ({"gradient": ["newton"]},
         "timetuner.gradient[0] must be one of 'sequential', 'parallel' or 'end_to_end', "
         "got 'newton'"),
        ({"gradient": "end_to_end"}, "timetuner.gradient must be a list, got 'end_to_end'"),
        ({"r": 0.5}, "timetuner.r must be a list, got 0.5"),
        ({"r": [0.5, -0.2]}, "timetuner.r must be a range low < high, got (0.5, -0.2)"),
        ({"samplers": "ddim"}, "timetuner.samplers must be a list, got 'ddim'"),
        ({"samplers": [{"guidance": -1}]},
         "timetuner.samplers[0].guidance must be at least 0, got -1"),
        ({"samplers": []}, "timetuner.samplers must be a list of 1 or more, got []"),
        ({"samplers": [{}, {"num_steps": 10}]},
         "timetuner.samplers must be different cases, got ddim-trailing-10 twice"),
        ({"samplers": [{"kind": "cm"}]},
         "timetuner.samplers must be others than cm, which has levels of its own"),
        ({"samplers": [{"kind": "ddimm"}]}, "timetuner.samplers[0].kind must be one of 'ddim', "
         "'ddpm', 'analytic_ddim', 'analytic_ddpm', 'euler', 'heun', 'dpm_solver_2', 'dpmpp_2m', "
         "'unipc' or 'cm', got 'ddimm'"),
        ({"num_steps": [0]}, "timetuner.num_steps[0] must be at least 1, got 0"),
        ({"num_steps": "ten"}, "timetuner.num_steps must be a list, got 'ten'"),
        ({"tune_last": "maybe"}, "timetuner.tune_last must be true or false, got 'maybe'"),
    ],
)  # fmt: skip
def test_a_wrong_space_is_refused_with_one_line(data: dict[str, Any], line: str) -> None:
    with pytest.raises(UserError) as error:
        space({"kind": "timetuner"} | data)
    assert str(error.value) == line


@pytest.mark.parametrize(
    ("data", "changes", "line"),
    [
        ({"num_steps": [10, 1200]}, {}, "timetuner.samplers, ddim-trailing-1200: "
         "sampler.num_steps must be at most 1000 (T), got 1200"),
        ({"num_steps": [7]}, {}, "timetuner.samplers, ddim-trailing-7: sampler.num_steps must "
         "divide T = 1000 for trailing, got 7"),
        ({"samplers": [{"kind": "ddpm", "trajectory": "edm"}]}, {}, "timetuner.samplers, "
         "ddpm-edm-10: sampler.trajectory must be one of leading, leading_1, trailing, linspace, "
         "quadratic for ddpm, got 'edm'"),
        ({"samplers": [{"eta": 0.5}]}, {"random_steps": False}, "timetuner.samplers must add no "
         "noise where score is teacher, got ddim-trailing-eta0.5-10"),
        ({}, {"kind": "denoising"},
         "space 'timetuner' must be used with trainer timetuner, got 'denoising'"),
    ],
)  # fmt: skip
def test_a_space_that_does_not_fit_is_refused_with_one_line(
    data: dict[str, Any], changes: dict[str, Any], line: str
) -> None:
    facts: Callable[..., TrainerFacts] = TrainerFacts
    with pytest.raises(UserError) as error:
        space({"kind": "timetuner"} | data).check(
            facts(**{"kind": "timetuner", "alpha_bar": ALPHA_BAR} | changes)
        )
    assert str(error.value) == line
