"""The single spaces: their baseline, the papers' points, and what they refuse."""

import optuna
import pytest
from optuna.distributions import IntDistribution
from optuna.trial import FixedTrial

from search_spaces import TrainerFacts, space
from search_spaces.families import LEARNED
from search_spaces.ranges import FAMILIES
from stepsearch.diffusion.noise import EDMConfig, VPConfig
from stepsearch.errors import UserError
from stepsearch.strategies import DENSITIES, STRATEGIES, WEIGHTS


@pytest.fixture
def facts() -> TrainerFacts:
    return TrainerFacts(kind="denoising", alpha_bar=VPConfig().build().alpha_bar)


def labels(data: object, facts: TrainerFacts) -> list[str]:
    return [point.label for point in space(data).fixed(facts)]


def test_speed_turns_fractions_into_a_boundary(facts):
    trial = FixedTrial({"tau": 0.6124, "k": 4.1, "lam": 0.63})
    assert space({"kind": "speed", "mirror": True}).suggest(trial, facts) == {
        "strategy": {
            "kind": "speed",
            "tau": 612,
            "k": 4.1,
            "lam": 0.63,
            "mirror": True,
            "convergence_weight": "formula",
        }
    }


@pytest.mark.parametrize(
    ("params", "kind"),
    [
        ({"tau": 1.0, "k": 1.0, "lam": 0.5}, "uniform"),
        ({"tau": 0.9, "k": 1.0, "lam": 0.5}, "speed"),
        ({"tau": 1.0, "k": 1.1, "lam": 0.5}, "speed"),
        ({"tau": 1.0, "k": 1.0, "lam": 0.51}, "speed"),
    ],
)
def test_only_speeds_very_corner_is_the_baseline(params, kind, facts):
    assert space("speed").suggest(FixedTrial(params), facts)["strategy"]["kind"] == kind


def test_speed_never_suggests_an_empty_area(facts):
    trial = FixedTrial({"tau": 0.0, "k": 2.0, "lam": 0.5})
    suggested = space({"kind": "speed", "tau": [0, 1]}).suggest(trial, facts)
    assert suggested["strategy"]["tau"] == 1


def test_speed_searches_k_on_a_log_scale(facts):
    trial = optuna.create_study().ask()
    space({"kind": "speed", "k": [1, 25]}).suggest(trial, facts)
    assert trial.distributions["k"] == optuna.distributions.FloatDistribution(1, 25, log=True)


@pytest.mark.parametrize(
    ("data", "papers"),
    [
        ("speed", ["SpeeD (paper)"]),
        ({"kind": "speed", "k": [1, 4]}, []),
        ({"kind": "speed", "tau": [0.8, 1]}, []),
        ({"kind": "speed", "lam": [0.5, 0.55]}, []),
        ("p2", ["P2 (paper)", "P2 (paper, FFHQ)"]),
        ({"kind": "p2", "gamma": [0, 0.7]}, ["P2 (paper, FFHQ)"]),
        ("min_snr", ["Min-SNR (paper)"]),
        ({"kind": "min_snr", "gamma_low": 6}, []),
        (
            "adaptive",
            [
                "Adaptive (paper's numbers, ImageNet)",
                "Adaptive (paper's numbers, CIFAR-10)",
                "Adaptive (default numbers)",
            ],
        ),
        ({"kind": "adaptive", "lr": [0.005, 0.1]}, ["Adaptive (paper's numbers, CIFAR-10)"]),
        ({"kind": "adaptive", "every": [50, 100]}, []),
        ("loss_second_moment", ["LossSecondMoment (paper)"]),
        ({"kind": "loss_second_moment", "share": [0, 0.5]}, []),
        ("infonoise", ["InfoNoise (CIFAR-10)"]),
        ({"kind": "infonoise", "gate": [0.2, 1]}, []),
        ("edm2_uncertainty", ["EDM2 (full strength)"]),
    ],
)
def test_a_papers_setting_is_tried_only_inside_the_ranges(data, papers, facts):
    assert labels(data, facts) == ["uniform", *papers]


def test_the_papers_speed_is_tau_700_k_5_lambda_06(facts):
    point = space("speed").fixed(facts)[1]
    suggested = space("speed").suggest(FixedTrial(dict(point.params)), facts)["strategy"]
    assert (suggested["tau"], suggested["k"], suggested["lam"]) == (700, 5, 0.6)


def test_p2_without_strength_is_the_baseline(facts):
    assert space("p2").suggest(FixedTrial({"gamma": 0.0}), facts)["strategy"] == {
        "kind": "uniform"
    }
    assert space("p2").suggest(FixedTrial({"gamma": 0.8}), facts)["strategy"] == {
        "kind": "p2",
        "gamma": 0.8,
    }


def test_min_snr_ranges_up_to_the_highest_snr_where_it_is_the_baseline(facts):
    trial = optuna.create_study().ask()
    space("min_snr").suggest(trial, facts)
    distribution = trial.distributions["gamma"]
    assert (distribution.low, distribution.log) == (1, True)
    assert distribution.high in (9999, 10_000)  # SNR_0 = 9999 up to rounding, methods section 1
    uncapped = space("min_snr").suggest(FixedTrial({"gamma": distribution.high}), facts)
    assert uncapped["strategy"] == {"kind": "uniform"}


def test_a_density_is_searched_between_uniform_and_itself(facts):
    laplace = {"kind": "laplace", "mu": 0.5, "b": 1.0}
    between, itself, uniform = (
        space("laplace").suggest(FixedTrial({"mu": 0.5, "b": 1.0, "floor": floor}), facts)
        for floor in (0.25, 0.0, 1.0)
    )
    assert between == {"strategy": {"kind": "compose", "p": laplace, "floor": 0.25}}
    assert itself == {"strategy": laplace}
    assert uniform == {"strategy": {"kind": "uniform"}}


def test_a_weight_is_searched_between_uniform_and_beyond_itself(facts):
    beyond = space("debiased").suggest(FixedTrial({"power": 1.5}), facts)
    weight = {"kind": "debiased"}
    assert beyond == {"strategy": {"kind": "compose", "w": weight, "power": 1.5}}
    assert space("debiased").suggest(FixedTrial({"power": 1.0}), facts) == {"strategy": weight}


def test_families_tries_uniform_and_then_every_papers_point(facts):
    points = space("families").fixed(facts)
    families = [point.params["family"] for point in points]
    assert families[0] == "uniform"
    mirrored = {"speed_released", "speed_v1"}  # has no meaning on some processes
    assert set(families) == {"uniform", *FAMILIES, *LEARNED} - mirrored
    speed = space("families").suggest(FixedTrial(points[1].params), facts)["strategy"]
    assert speed == {"kind": "speed", "tau": 700, "k": 5, "lam": 0.6}


def test_families_leaves_out_points_outside_its_ranges(facts):
    data = {"kind": "families", "families": ["beta", "p2"], "ranges": {"p2.gamma": [0, 0.7]}}
    assert labels(data, facts) == ["uniform", "B-TTDM", "P2 (paper, FFHQ)"]


@pytest.mark.parametrize("kind", ["speed_released", "speed_v1"])
def test_families_refuses_mirrored_draws_where_they_have_no_meaning(kind, facts):
    named = space({"kind": "families", "families": ["p2", kind]})
    named.check(facts)
    edm = TrainerFacts("denoising", EDMConfig().build().alpha_bar)
    with pytest.raises(UserError, match=f"{kind}.mirror must be false on this noise process"):
        named.check(edm)
    space("families").check(edm)


def test_families_asks_for_the_numbers_of_one_that_learns_under_its_name(facts):
    ranges = {"adaptive.every": [1, 3], "adaptive.lr": [1e-2, 1e-1], "beta.a": [0.6, 1]}
    data = {"kind": "families", "families": ["beta", "adaptive"], "ranges": ranges}
    # the papers' policies learn every 40 steps, which is not in the range
    assert labels(data, facts) == ["uniform", "B-TTDM"]
    params = {"share": 0.5, "lr": 0.05, "entropy": 1e-2, "every": 2, "queue": 20, "selected": 3}
    trial = FixedTrial({"family": "adaptive", **{f"adaptive.{k}": v for k, v in params.items()}})
    same = space({"kind": "adaptive", "every": [1, 3], "lr": [1e-2, 1e-1]})
    policy = same.parameters(FixedTrial(params)) | {"floor": 0.5}
    assert space(data).suggest(trial, facts) == {"strategy": policy}
    assert trial.distributions["adaptive.every"] == IntDistribution(1, 3, log=True)


def test_every_strategy_is_a_family():
    not_one = {"uniform", "table", "compose", "phase"}
    assert FAMILIES.keys() | LEARNED.keys() == STRATEGIES.keys() - not_one
    assert FAMILIES.keys() >= (DENSITIES.keys() | WEIGHTS.keys()) - not_one


def test_compose_has_speed_and_every_factor_alone(facts):
    assert labels("compose", facts)[-1] == "SpeeD (paper)"
    data = {"kind": "compose", "p": ["beta"], "w": ["min_snr"]}
    assert labels(data, facts) == ["uniform", "B-TTDM", "Min-SNR (paper)"]
    trial = FixedTrial({"p": "beta", "beta.a": 0.7, "w": "debiased", "floor": 0.1})
    assert space("compose").suggest(trial, facts)["strategy"] == {
        "kind": "compose",
        "p": {"kind": "beta", "a": 0.7},
        "w": {"kind": "debiased"},
        "floor": 0.1,
    }


def test_a_phase_of_no_images_is_the_baseline_and_others_end_in_uniform(facts):
    data = {"kind": "phase", "first": {"kind": "p2"}, "images": 1000}
    uniform = {"kind": "uniform"}
    assert space(data).suggest(FixedTrial({"gamma": 1.0, "images": 0}), facts) == {
        "strategy": uniform
    }
    phased = space(data).suggest(FixedTrial({"gamma": 1.0, "images": 640}), facts)["strategy"]
    first = {"strategy": {"kind": "p2", "gamma": 1.0}, "images": 640}
    assert phased == {"kind": "phase", "phases": [first, {"strategy": uniform}]}
    assert labels(data, facts)[1] == "P2 (paper) for 1,000 images"


def test_a_learned_strategy_that_decides_nothing_is_the_baseline(facts):
    uniform, *papers = space("adaptive").fixed(facts)
    assert space("adaptive").suggest(FixedTrial(dict(uniform.params)), facts) == {
        "strategy": {"kind": "uniform"}
    }
    for point in papers:
        suggested = space("adaptive").suggest(FixedTrial(dict(point.params)), facts)["strategy"]
        assert (suggested["every"], suggested["queue"], suggested["selected"]) == (40, 20, 3)
    assert suggested["floor"] == pytest.approx(0.05)


def test_the_papers_second_moment_resampler_keeps_a_thousandth_uniform(facts):
    point = space("loss_second_moment").fixed(facts)[1]
    suggested = space("loss_second_moment").suggest(FixedTrial(dict(point.params)), facts)
    assert suggested["strategy"]["floor"] == pytest.approx(0.001)
    assert suggested["strategy"]["history"] == 10


def test_the_share_of_edm2s_uncertainty_is_its_strength(facts):
    trial = FixedTrial({"share": 0.3, "lr": 0.02})
    assert space("edm2_uncertainty").suggest(trial, facts)["strategy"] == {
        "kind": "edm2_uncertainty",
        "lr": 0.02,
        "strength": 0.3,
    }
