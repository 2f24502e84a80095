"""Points of a space on another noise process: what is a position in time goes along."""

import re
from itertools import permutations
from pathlib import Path

import pytest
from scipy.special import expit

from search_spaces import SPACES, TrainerFacts, space
from search_spaces.ranges import FAMILIES, positions
from stepsearch.diffusion.noise import EDMConfig, FlowConfig, VPConfig
from stepsearch.strategies.carry import carry_time

PROCESSES = [
    VPConfig(),
    VPConfig(schedule="cosine", timesteps=250),
    VPConfig(zero_terminal_snr=True),
    EDMConfig(),
    FlowConfig(shift=3),
]
SPACE = {"phase": {"images": 20_000}}
OF_STRATEGIES = [kind for kind, member in SPACES.items() if "denoising" in member.trainers]


def facts(config):
    return TrainerFacts("denoising", config.build().alpha_bar, config.targets[0])


LINEAR, FLOW = facts(VPConfig()), facts(FlowConfig())
LEVELS = VPConfig().build().log_snr, FlowConfig().build().log_snr


@pytest.mark.parametrize("kind", OF_STRATEGIES)
def test_on_its_own_process_a_point_stays_and_elsewhere_it_keeps_its_parameters(kind):
    member = space({"kind": kind} | SPACE.get(kind, {}))
    for here, there in permutations([facts(config) for config in PROCESSES], 2):
        for point in member.fixed(here):
            assert member.carried(point.params, here, here) == point.params
            assert member.carried(point.params, here, there).keys() == point.params.keys()


def test_speeds_corner_stays_the_baseline():
    uniform = space("speed").fixed(LINEAR)[0]
    assert space("speed").carried(uniform.params, LINEAR, FLOW) == uniform.params


@pytest.mark.parametrize("kind", OF_STRATEGIES)
def test_positions_are_parameters(kind):
    member = space({"kind": kind} | SPACE.get(kind, {}))
    suggested = {name for point in member.fixed(LINEAR) for name in point.params}
    assert member.positions().keys() <= suggested


def test_the_guide_names_them_all():
    page = (Path(__file__).parents[2] / "docs/warm-start.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| (.*) \|$", page, flags=re.MULTILINE)
    named = {f"{kind}.{name}" for name, kinds in rows for kind in re.findall(r"`(\w+)`", kinds)}
    assert named == set(positions(*FAMILIES))
    assert carry_time(0.7, LEVELS[0], VPConfig(schedule="cosine").build().log_snr) == (
        pytest.approx(0.95, abs=0.005)
    )


@pytest.mark.parametrize(
    ("data", "params", "position"),
    [
        ("speed", {"tau": 0.6, "k": 4.0, "lam": 0.6}, "tau"),
        ("step", {"tau": 0.6, "k": 4.0, "floor": 0.5}, "tau"),
        ("clts", {"mean": 0.6, "std": 0.2, "l": 0.5, "floor": 0.0}, "mean"),
        ("timestep_bias", {"multiplier": 2.0, "begin": 0.6, "floor": 0.0}, "begin"),
        ("families", {"family": "step", "step.tau": 0.6, "step.k": 4.0}, "step.tau"),
        (
            "compose",
            {"p": "clts", "clts.mean": 0.6, "clts.std": 0.2, "clts.l": 0.5, "w": "uniform"},
            "clts.mean",
        ),
        (
            {"kind": "phase", "images": 900},
            {"tau": 0.6, "k": 4.0, "lam": 0.6, "images": 300},
            "tau",
        ),
    ],
)
def test_a_position_in_time_goes_where_the_noise_is_the_same(data, params, position):
    carried = space(data).carried(params, LINEAR, FLOW)
    assert carried == {**params, position: carry_time(0.6, *LEVELS)}
    assert carried[position] != pytest.approx(0.6, abs=0.05)


def test_the_middle_of_a_logit_normal_is_a_position_too():
    params = {"mean": 0.4, "std": 1.0, "floor": 0.0}
    carried = space("logit_normal").carried(params, LINEAR, FLOW)
    assert expit(carried.pop("mean")) == pytest.approx(carry_time(expit(0.4), *LEVELS))
    assert carried == {"std": 1.0, "floor": 0.0}


@pytest.mark.parametrize(
    "params",
    [
        {"family": "laplace", "laplace.mu": 0.5, "laplace.b": 1.0},
        {"family": "edm_log_normal", "edm_log_normal.mean": -1.0, "edm_log_normal.std": 1.0},
        {"family": "min_snr", "min_snr.gamma": 5.0},
    ],
)
def test_what_is_a_noise_level_already_stays(params):
    assert space("families").carried(params, LINEAR, FLOW) == params
