"""What holds for every space of strategies, proposed to by real Optuna samplers."""

import json
from collections.abc import Callable
from typing import Any, get_args

import numpy as np
import optuna
import pytest
from optuna.distributions import CategoricalDistribution
from pydantic import TypeAdapter

from search_spaces import SPACES, AnySpace, SearchSpace, TrainerFacts, space
from stepsearch.diffusion.noise import EDMConfig, FlowConfig, Schedule, VPConfig
from stepsearch.errors import UserError
from stepsearch.strategies import DENSITIES, WEIGHTS, AnyStrategy, PredictionType

REQUIRED = {"phase": {"images": 20_000}}
OF_THE_DENOISER = ("stages", "stage_widths")  # see test_stage_spaces.py
OF_STRATEGIES = [
    kind
    for kind, member in SPACES.items()
    if "denoising" in member.trainers and kind not in OF_THE_DENOISER
]
EXAMPLES = [
    *(space({"kind": kind} | REQUIRED.get(kind, {})) for kind in OF_STRATEGIES),
    space({"kind": "speed", "tau": [0, 1], "k": [1, 25], "mirror": True}),
    space({"kind": "speed", "lam": [0.5, 1], "convergence_weight": "released"}),
    space({"kind": "p2", "gamma": [0, 0.4]}),
    space({"kind": "min_snr", "gamma_low": 20}),
    space({"kind": "laplace", "ranges": {"mu": [-1, 0.5], "floor": [0.2, 1]}}),
    space({"kind": "edm", "ranges": {"power": [0, 1]}}),
    space({"kind": "families", "families": ["speed", "laplace"], "ranges": {"laplace.b": [1, 2]}}),
    space({"kind": "compose", "p": ["step", "beta"], "w": ["change_aware"]}),
    space({"kind": "phase", "first": {"kind": "logit_normal"}, "images": 7}),
    space({"kind": "phase", "first": {"kind": "families"}, "images": 999}),
]
every_space = pytest.mark.parametrize("member", EXAMPLES, ids=lambda member: member.kind)


def facts(schedule: str = "linear", timesteps: int = 1000, **changes: Any) -> TrainerFacts:
    config = VPConfig.model_validate({"schedule": schedule, "timesteps": timesteps})
    return TrainerFacts(**({"kind": "denoising", "alpha_bar": config.build().alpha_bar} | changes))


@pytest.fixture
def ask() -> Callable[..., optuna.Trial]:
    """ask(params): a trial of one Optuna study, with these parameters enqueued if given."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=0, n_startup_trials=5))

    def next_trial(params: dict[str, float] | None = None) -> optuna.Trial:
        if params is not None:
            study.enqueue_trial(params)
        return study.ask()

    return next_trial


def build(member: SearchSpace, trial: optuna.Trial, trainer: TrainerFacts) -> Any:
    """The strategy config that the space suggests, built on the trainer's process."""
    overrides = member.suggest(trial, trainer)
    assert overrides.keys() == {"strategy"}
    assert json.loads(json.dumps(overrides)) == overrides
    config = TypeAdapter(AnyStrategy).validate_python(overrides["strategy"])
    config.build(trainer.alpha_bar, trainer.prediction_type)
    return config


def kinds(member: SearchSpace) -> set[str]:
    """The kinds of strategy that a space proposes."""
    if member.kind == "families":
        return {"uniform", *member.families}
    if member.kind in DENSITIES or member.kind in WEIGHTS:
        return {member.kind, "compose", "uniform"}
    return {member.kind, "uniform"}


@every_space
@pytest.mark.parametrize("schedule", get_args(Schedule))
def test_every_proposal_is_a_strategy_that_fits_the_process(member, schedule, ask):
    for prediction_type in get_args(PredictionType):
        trainer = facts(schedule, prediction_type=prediction_type)
        member.check(trainer)
        for _ in range(5):
            assert build(member, ask(), trainer).kind in kinds(member)


@pytest.mark.parametrize("kind", OF_STRATEGIES)
@pytest.mark.parametrize(
    "config",
    [EDMConfig(), FlowConfig(shift=3), VPConfig(schedule="cosine", zero_terminal_snr=True)],
    ids=lambda config: config.kind,
)
def test_every_proposal_fits_processes_that_are_no_schedule_of_betas(kind, config, ask):
    target = config.targets[0]
    trainer = TrainerFacts("denoising", config.build().alpha_bar, target)
    member = space({"kind": kind} | REQUIRED.get(kind, {}))
    member.check(trainer)
    for point in member.fixed(trainer):
        build(member, ask(dict(point.params)), trainer)
    for _ in range(10):
        build(member, ask(), trainer)


@every_space
@pytest.mark.parametrize("timesteps", [250, 1000])
def test_fixed_points_are_enqueued_unchanged_and_the_first_is_uniform(member, timesteps, ask):
    trainer = facts(timesteps=timesteps)
    points = member.fixed(trainer)
    assert points[0].label == "uniform"
    assert len({point.label for point in points}) == len(points)
    for point in points:
        trial = ask(dict(point.params))
        config = build(member, trial, trainer)
        assert trial.params == point.params  # a warning of Optuna's would be an error here
        assert (config.kind == "uniform") == (point.label == "uniform")
        assert config.kind in kinds(member)


@every_space
def test_the_sampler_learns_from_the_baseline(member):
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=0))
    study.enqueue_trial(dict(member.fixed(facts())[0].params))
    for _ in range(12):
        trial = study.ask()
        member.suggest(trial, facts())
        study.tell(trial, 1.0)
    spaces = [trial.distributions for trial in study.trials]
    if any(isinstance(d, CategoricalDistribution) for d in spaces[-1].values()):
        # where the numbers depend on a choice, the choice is what all trials share
        assert all(distributions.items() >= spaces[0].items() for distributions in spaces)
    else:
        assert all(distributions == spaces[0] for distributions in spaces)


@every_space
def test_a_space_fits_only_the_trainers_it_names(member):
    message = rf"space '{member.kind}' must be used with trainer denoising, got 'few_steps'"
    with pytest.raises(UserError, match=message):
        member.check(facts(kind="few_steps"))


@every_space
def test_a_space_survives_json_and_is_found_by_its_kind(member):
    data = json.loads(member.model_dump_json())
    assert space(data) == member
    assert TypeAdapter(AnySpace).validate_python(data) == member


@pytest.mark.parametrize("kind", sorted(SPACES.keys() - REQUIRED))
def test_a_space_may_be_given_by_its_name_alone(kind):
    assert space(kind) == space({"kind": kind})
    assert type(space(kind)) is SPACES[kind]


@pytest.mark.parametrize(
    ("data", "got"),
    [("sped", "'sped'"), ({"kind": "sped"}, "'sped'"), ({"k": [1, 2]}, "None"), (3, "3")],
)
def test_an_unknown_space_is_refused_with_the_choices(data, got):
    with pytest.raises(UserError) as error:
        space(data)
    assert str(error.value) == f"space must be one of {', '.join(SPACES)}, got {got}"


def test_facts_know_T():
    assert facts(timesteps=250).T == 250
    assert np.array_equal(facts().alpha_bar, VPConfig().build().alpha_bar)
