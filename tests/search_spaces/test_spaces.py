"""The single spaces: their baseline, the papers' points, and what they refuse."""

import optuna
import pytest
from optuna.trial import FixedTrial

from search_spaces import TrainerFacts, space
from stepsearch.diffusion.noise import NoiseConfig
from stepsearch.errors import UserError


@pytest.fixture
def facts() -> TrainerFacts:
    return TrainerFacts(kind="denoising", alpha_bar=NoiseConfig().build().alpha_bar)


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
                "Adaptive (paper, ImageNet)",
                "Adaptive (paper, CIFAR-10)",
                "Adaptive (default)",
            ],
        ),
        ({"kind": "adaptive", "lr": [0.005, 0.1]}, ["Adaptive (paper, CIFAR-10)"]),
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


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"kind": "speed", "k": [5, 5]}, "speed.k must be a range low < high, got (5, 5)"),
        ({"kind": "speed", "k": [10, 1]}, "speed.k must be a range low < high, got (10, 1)"),
        ({"kind": "speed", "k": [0.5, 9]}, "speed.k must be a range inside 1..1000, got (0.5, 9)"),
        (
            {"kind": "speed", "k": [2, 10]},
            "speed.k must be a range that holds 1, the uniform baseline, got (2, 10)",
        ),
        ({"kind": "speed", "tau": [0.4, 700]}, "speed.tau must be a range inside 0..1, got"),
        (
            {"kind": "speed", "tau": [0.4, 0.9]},
            "speed.tau must be a range that holds 1, the uniform baseline, got (0.4, 0.9)",
        ),
        ({"kind": "speed", "lam": [0.4, 0.6]}, "speed.lam must be a range inside 0.5..1, got"),
        (
            {"kind": "speed", "lam": [0.6, 0.8]},
            "speed.lam must be a range that holds 0.5, the uniform baseline, got (0.6, 0.8)",
        ),
        ({"kind": "speed", "k": 5}, "speed.k must be a list, got 5"),
        ({"kind": "speed", "k": [1, "b"]}, "speed.k[1] must be a number, got 'b'"),
        ({"kind": "speed", "k": [1]}, "speed.k[1] is required"),
        ({"kind": "speed", "k": [1, float("nan")]}, "speed.k[1] must be a finite number, got nan"),
        ({"kind": "speed", "mirror": 7}, "speed.mirror must be true or false, got 7"),
        ({"kind": "speed", "convergence_weight": 1}, "speed.convergence_weight must be one of"),
        ({"kind": "speed", "lamb": [0.5, 1]}, "speed.lamb is not a known key; did you mean 'lam'"),
        ({"kind": "p2", "gamma": [1.5, 0]}, "p2.gamma must be a range low < high, got (1.5, 0)"),
        ({"kind": "p2", "gamma": [-1, 1]}, "p2.gamma must be a range inside 0..10, got (-1, 1)"),
        (
            {"kind": "p2", "gamma": [0.5, 1]},
            "p2.gamma must be a range that holds 0, the uniform baseline, got (0.5, 1)",
        ),
        (
            {"kind": "adaptive", "share": [0.5, 1]},
            "adaptive.share must be a range that holds 0, the uniform baseline, got (0.5, 1)",
        ),
        ({"kind": "adaptive", "lr": [0, 1]}, "adaptive.lr must be a range inside 1e-06..1, got"),
        (
            {"kind": "adaptive", "entropy": [1, 0.1]},
            "adaptive.entropy must be a range low < high, got (1, 0.1)",
        ),
        (
            {"kind": "adaptive", "every": [0, 9]},
            "adaptive.every must be a range inside 1..10000, got (0, 9)",
        ),
        ({"kind": "adaptive", "every": [1.5, 9]}, "adaptive.every[0] must be an integer, got 1.5"),
        (
            {"kind": "adaptive", "queue": [2, 9]},
            "adaptive.queue must be a range inside 5..1000, got (2, 9)",
        ),
        (
            {"kind": "adaptive", "selected": [1, 90]},
            "adaptive.selected must be a range inside 1..50, got (1, 90)",
        ),
        (
            {"kind": "loss_second_moment", "history": [0, 9]},
            "loss_second_moment.history must be a range inside 1..1000, got (0, 9)",
        ),
        (
            {"kind": "infonoise", "gate": [0, 1]},
            "infonoise.gate must be a range inside 0.0001..100, got (0, 1)",
        ),
        ({"kind": "infonoise", "over_weight": 3}, "infonoise.over_weight must be true or false"),
        (
            {"kind": "edm2_uncertainty", "lr": [0.1, 0.1]},
            "edm2_uncertainty.lr must be a range low < high, got (0.1, 0.1)",
        ),
        ({"kind": "min_snr", "gamma_low": 0}, "min_snr.gamma_low must be greater than 0, got 0"),
        ({"kind": "min_snr", "gamma_low": "low"}, "min_snr.gamma_low must be a number, got 'low'"),
    ],
)
def test_a_wrong_space_is_refused_in_one_line(data, message):
    with pytest.raises(UserError) as error:
        space(data)
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


def test_min_snr_refuses_a_process_without_an_snr_above_its_range(facts):
    with pytest.raises(UserError, match=r"gamma_low must be below (9999|10000) .*, got 20000"):
        space({"kind": "min_snr", "gamma_low": 20_000}).check(facts)


def test_a_mirrored_speed_refuses_a_process_without_meaningless_steps():
    process = NoiseConfig(schedule="cosine", timesteps=50).build()
    facts = TrainerFacts(kind="denoising", alpha_bar=process.alpha_bar)
    space("speed").check(facts)
    with pytest.raises(UserError, match=r"speed\.mirror must be false"):
        space({"kind": "speed", "mirror": True}).check(facts)


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
