"""The spaces that vary a denoiser with stages: every point is one that can be trained."""

import json
from dataclasses import replace

import numpy as np
import optuna
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from optuna.trial import FixedTrial
from pydantic import TypeAdapter

from search_spaces import SPACES, AnySpace, SearchSpace, space
from search_spaces.stages import ordered, unordered
from stepsearch.config import merge
from stepsearch.diffusion.datasets import Dataset
from stepsearch.diffusion.denoisers import multistage
from stepsearch.diffusion.multistage.unet_arithmetic import unet_costs
from stepsearch.diffusion.stages import find_stages
from stepsearch.errors import UserError
from trainers import DenoisingConfig, trainer

PROCESSES = {
    "vp": {},
    "vp, few": {"noise": {"timesteps": 50}},
    "vp, zero SNR": {
        "noise": {"zero_terminal_snr": True},
        "training": {"prediction_type": "v_prediction"},
    },
    "edm": {
        "noise": {"kind": "edm", "timesteps": 50, "sigma_max": 1000},
        "training": {"prediction_type": "edm"},
        "sampler": {"kind": "euler"},
    },
    "flow": {
        "noise": {"kind": "flow", "shift": 3},
        "training": {"prediction_type": "flow"},
        "sampler": {"kind": "euler"},
    },
}
MEMBERS = [
    space("stages"),
    space({"kind": "stages", "stages": [1, 3]}),
    space("stage_widths"),
    space({"kind": "stage_widths", "total": "flops", "encoder": [0.5, 1.1]}),
]
every_member = pytest.mark.parametrize("member", MEMBERS, ids=lambda member: member.kind)


def config(**changes: object) -> DenoisingConfig:
    return trainer(**{"denoiser": {"kind": "multistage_unet"}} | changes)


def proposed(base: DenoisingConfig, member: SearchSpace, trial: optuna.Trial) -> DenoisingConfig:
    """The trainer with the proposal laid over it, as a search does."""
    overrides = member.suggest(trial, base.facts())
    assert overrides.keys() == {"denoiser"}
    assert json.loads(json.dumps(overrides)) == overrides
    data = merge(base.model_dump(mode="json"), overrides)
    return DenoisingConfig.model_validate(data)


def asked(study: optuna.Study, params: dict[str, float] | None = None) -> optuna.Trial:
    if params:
        study.enqueue_trial(dict(params))
    return study.ask()


@pytest.fixture
def study() -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))


@every_member
@pytest.mark.parametrize("process", PROCESSES)
def test_every_proposal_can_be_trained_on_every_process(member, process, study):
    base = config(**PROCESSES[process])
    member.check(base.facts())
    for _ in range(15):
        proposed(base, member, asked(study)).check(workers=1)


@every_member
def test_fixed_points_are_enqueued_unchanged(member, study):
    base = config()
    points = member.fixed(base.facts())
    assert len({point.label for point in points}) == len(points)
    for point in points:
        trial = asked(study, point.params)
        proposed(base, member, trial)
        assert trial.params == point.params


@every_member
def test_they_survive_json_and_are_found_by_their_kind(member):
    data = json.loads(member.model_dump_json())
    assert space(data) == member
    assert TypeAdapter(AnySpace).validate_python(data) == member


@every_member
def test_a_denoiser_without_stages_is_refused(member):
    with pytest.raises(UserError) as error:
        member.check(config(denoiser={"kind": "unet"}).facts())
    assert str(error.value) == (
        f"space {member.kind!r} must be used with trainer.denoiser.kind multistage_unet,"
        " got 'unet'"
    )


def test_workers_with_a_stage_each_are_refused_where_their_number_changes():
    apart = config(denoiser={"kind": "multistage_unet", "stages_a_worker": "one"}).facts()
    space("stage_widths").check(apart)
    with pytest.raises(UserError) as error:
        space("stages").check(apart)
    assert str(error.value) == (
        "space 'stages' must be used with trainer.denoiser.stages_a_worker all, got 'one': the"
        " number of stages changes, that of the workers does not"
    )


# --- stages -------------------------------------------------------------------------------------


@given(st.lists(st.floats(0, 0.999), min_size=1, max_size=4))
def test_ordered_numbers_rise_and_come_back(shares):
    rising = ordered(shares)
    assert all(0 <= a <= b <= 1 for a, b in zip(rising, [*rising[1:], 1], strict=True))
    np.testing.assert_allclose(unordered(rising), shares, atol=1e-6)


def test_uniform_shares_give_uniform_order_statistics():
    """The k-th of m has mean k / (m + 1); 20,000 draws, sd of the mean at most 0.002."""
    shares = np.random.default_rng(0).random((20_000, 3))
    means = np.mean([ordered(row) for row in shares], axis=0)
    np.testing.assert_allclose(means, [0.25, 0.5, 0.75], atol=0.01)


def test_one_stage_is_tried_first_then_the_analytic_boundaries(study):
    """B11: Algorithms 1 and 2 on the digits; Algorithm 2 within one of its cells."""
    base, found = config(), {}
    for point in space("stages").fixed(base.facts()):
        made = proposed(base, space("stages"), asked(study, point.params))
        found[point.label] = made.denoiser.boundaries
        assert made.denoiser.decoders == ((16, 32),) * made.denoiser.n
    assert found.pop("one stage") == ()
    expected = {
        "2 stages by Algorithm 2": (0.476,),
        "3 stages by Algorithm 1": (0.095, 0.441),
        "4 stages by Algorithm 2": (0.226, 0.476, 0.726),
        "5 stages by Algorithm 2": (0.176, 0.376, 0.576, 0.776),
    }
    assert found.keys() == expected.keys()
    for label, boundaries in expected.items():
        assert found[label] == pytest.approx(boundaries, abs=0.026)


def test_the_number_of_stages_decides_which_boundaries_there_are(study):
    for _ in range(20):
        trial = asked(study)
        space("stages").suggest(trial, config().facts())
        n = trial.params["stages"]
        assert set(trial.params) == {"stages", *(f"{n}.{k}" for k in range(1, n))}


def test_the_outermost_boundaries_leave_every_stage_some_timesteps():
    base = config()
    for share in (0.0, 1.0):
        trial = FixedTrial({"stages": 5, **{f"5.{k}": share for k in (1, 2, 3, 4)}})
        made = proposed(base, space("stages"), trial)
        starts = made.denoiser.starts(base.dataset.load(), base.noise.build())
        assert np.diff([0, *starts, 1000]).min() >= 19


def test_the_data_are_looked_at_once_for_all_numbers_of_stages(monkeypatch):
    looks = []

    def find(points, config):
        looks.append(config.n)
        return find_stages(points, config)

    monkeypatch.setattr(multistage, "find_stages", find)
    multistage._analysis.cache_clear()
    space("stages").fixed(config().facts())
    assert len(looks) == 1


def test_where_algorithm_1_leaves_no_three_stages_those_of_algorithm_2_are_tried():
    """Few images of many pixels."""
    images = torch.rand(30, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    few = Dataset("noise", images, images[:1], None, None, "")
    facts = replace(config().facts(), data=lambda: few)
    labels = [point.label for point in space({"kind": "stages", "stages": [1, 3]}).fixed(facts)]
    assert labels == ["one stage", "2 stages by Algorithm 2", "3 stages by Algorithm 2"]


@pytest.mark.parametrize("process", ["edm", "flow", "vp, few"])
@pytest.mark.parametrize("shares", [(0.3,), (0.2, 0.6), (0.5, 0.5, 0.5)])
def test_boundaries_are_carried_to_the_same_noise(process, shares):
    """To the nearest of the other process's timesteps."""
    n, member = len(shares) + 1, space("stages")
    here, there = config().facts(), config(**PROCESSES[process]).facts()
    params = {"stages": n, **{f"{n}.{k}": share for k, share in enumerate(shares, 1)}}
    carried = member.carried(params, here, there)
    before, after, as_it_was = (
        member.suggest(FixedTrial(point), facts)["denoiser"]["boundaries"]
        for point, facts in ((params, here), (carried, there), (params, there))
    )
    assert after == pytest.approx(before, abs=0.03)
    assert process != "edm" or as_it_was != pytest.approx(before, abs=0.1)
    assert member.carried(params, here, here) == params


# --- stage_widths -------------------------------------------------------------------------------


@pytest.mark.parametrize("total", ["parameters", "flops"])
def test_every_proposal_has_the_total_of_the_baseline_up_to_rounding(total, study):
    member = space({"kind": "stage_widths", "total": total})
    base = config(denoiser={"kind": "multistage_unet", "channels": [64, 128]})

    def amount(made: DenoisingConfig) -> float:
        costs = unet_costs(
            (1, 8, 8), made.denoiser.channels, made.denoiser.decoders, layers=1, attention=True
        )
        return {"parameters": costs.parameters, "flops": costs.flops([1, 1, 1])}[total]

    equal, *papers = member.fixed(base.facts())
    baseline = proposed(base, member, asked(study, equal.params))
    assert baseline.denoiser.decoders == ((64, 128),) * 3
    assert [point.label for point in papers] == [
        "Multistage (paper, CIFAR-10)",
        "Multistage (paper, CelebA)",
    ]
    for _ in range(20):
        share = amount(proposed(base, member, asked(study))) / amount(baseline)
        assert 0.94 < share <= 1


@pytest.mark.parametrize("width", [(0.125, 2.0), (0.01, 100.0)])
def test_a_large_network_with_the_most_unlike_widths_has_the_total_too(width):
    member = space({"kind": "stage_widths", "width": list(width)})
    wide = {"channels": [512, 1024], "decoders": [[512, 1024]] * 3}
    base = config(denoiser={"kind": "multistage_unet", **wide})
    widths = {"width1": width[1], "width2": width[1], "width3": width[0]}
    made = proposed(base, member, FixedTrial({**widths, "encoder": 1.0})).denoiser
    amounts = [
        unet_costs(
            (1, 8, 8), one.channels, one.decoders, layers=one.layers, attention=True
        ).parameters
        for one in (made, base.denoiser)
    ]
    assert 0.99 < amounts[0] / amounts[1] <= 1


def test_the_papers_widths_keep_their_ratios(study):
    base = config(denoiser={"kind": "multistage_unet", "channels": [128, 256]})
    point = space("stage_widths").fixed(base.facts())[1]
    made = proposed(base, space("stage_widths"), asked(study, point.params))
    widths = [decoder[0] for decoder in made.denoiser.decoders]
    assert widths[0] / widths[1] == pytest.approx(1.5, rel=0.05)
    assert widths[2] / widths[1] == pytest.approx(0.125, rel=0.2)


def test_a_wide_encoder_leaves_less_to_the_decoders():
    base = config(denoiser={"kind": "multistage_unet", "channels": [64, 128]})
    equal = {"width1": 1.0, "width2": 1.0, "width3": 1.0}
    narrow, wide = (
        proposed(base, space("stage_widths"), FixedTrial({**equal, "encoder": factor})).denoiser
        for factor in (0.5, 1.25)
    )
    assert narrow.channels[0] < wide.channels[0]
    assert narrow.decoders[0][0] > wide.decoders[0][0]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"kind": "stages", "stages": [2, 5]},
         "stages.stages must be a range that holds 1, the uniform baseline, got (2, 5)"),
        ({"kind": "stages", "stages": [1, 6]}, "stages.stages must be a range inside 1..5, got"),
        ({"kind": "stages", "stages": [1, 1]}, "stages.stages must be a range low < high, got"),
        ({"kind": "stages", "stages": [1, 2.5]}, "stages.stages[1] must be an integer, got 2.5"),
        ({"kind": "stage_widths", "total": "time"},
         "stage_widths.total must be one of 'parameters' or 'flops', got 'time'"),
        ({"kind": "stage_widths", "width": [0, 2]},
         "stage_widths.width must be a range inside 0.01..100, got (0, 2)"),
        ({"kind": "stage_widths", "encoder": [1.5, 2]},
         "stage_widths.encoder must be a range that holds 1, the uniform baseline, got (1.5, 2)"),
    ],
)  # fmt: skip
def test_a_wrong_space_is_refused_in_one_line(data, message):
    with pytest.raises(UserError) as error:
        space(data)
    assert str(error.value).startswith(message)


def test_an_encoder_that_leaves_nothing_to_the_decoders_is_refused():
    member = space({"kind": "stage_widths", "encoder": [0.5, 10]})
    with pytest.raises(UserError) as error:
        member.check(config().facts())
    assert str(error.value) == (
        "stage_widths.encoder must leave some of the parameters to the decoders, got (0.5, 10.0)"
    )


def test_both_are_in_the_table():
    assert {member.kind for member in MEMBERS} <= SPACES.keys()
