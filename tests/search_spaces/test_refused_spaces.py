"""What the single spaces refuse, in one line."""

import pytest

from search_spaces import TrainerFacts, space
from stepsearch.diffusion.noise import VPConfig
from stepsearch.errors import UserError


@pytest.fixture
def facts() -> TrainerFacts:
    return TrainerFacts(kind="denoising", alpha_bar=VPConfig().build().alpha_bar)


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
        (
            {"kind": "laplace", "ranges": {"nu": [0, 1]}},
            "laplace.ranges must name one of mu, b, floor, got 'nu'",
        ),
        (
            {"kind": "laplace", "ranges": {"mu": [1, 0]}},
            "laplace.ranges must have low < high, got mu: (1, 0)",
        ),
        (
            {"kind": "laplace", "ranges": {"mu": [0, 99]}},
            "laplace.ranges must fit the strategy: laplace.mu must be at most 20, got 99",
        ),
        (
            {"kind": "laplace", "ranges": {"floor": [0, 0.5]}},
            "laplace.ranges must hold floor = 1, the uniform baseline, got (0, 0.5)",
        ),
        (
            {"kind": "edm", "ranges": {"power": [0.5, 1]}},
            "edm.ranges must hold power = 0, the uniform baseline, got (0.5, 1)",
        ),
        (
            {"kind": "soft_min_snr", "ranges": {"gamma": [0, 3]}},
            "soft_min_snr.ranges must be above 0 on a log scale, got gamma: 0",
        ),
        (
            {"kind": "step", "ranges": {"tau": [1, 700]}},
            "step.ranges must keep tau, a share of T, in 0..1, got 700",
        ),
        (
            {"kind": "families", "families": ["sped"]},
            "families.families must be among speed, speed_released, speed_v1, step, beta",
        ),
        (
            {"kind": "families", "families": ["p2", "p2"]},
            "families.families must not repeat, got p2, p2",
        ),
        ({"kind": "families", "families": []}, "families.families must be a list of 1 or more"),
        (
            {"kind": "families", "families": ["p2"], "ranges": {"beta.a": [0.5, 1]}},
            "families.ranges must name one of p2.gamma, got 'beta.a'",
        ),
        (
            {"kind": "families", "families": ["p2", "decl"], "ranges": {"decl.lr": [0.5, 1]}},
            "families.ranges must name one of p2.gamma, decl.share, decl.clusters, decl.patience, "
            "got 'decl.lr'",
        ),
        (
            {"kind": "families", "families": ["decl"], "ranges": {"decl.clusters": [1, 9]}},
            "families.ranges: decl.clusters must be a range inside 2..100, got (1, 9)",
        ),
        (
            {"kind": "gradient_variance", "bins": [0, 9]},
            "gradient_variance.bins must be a range inside 1..1000, got (0, 9)",
        ),
        (
            {"kind": "gradient_variance", "every": [9, 9]},
            "gradient_variance.every must be a range low < high, got (9, 9)",
        ),
        (
            {"kind": "vdm_adaptive", "bins": [1, 9]},
            "vdm_adaptive.bins must be a range inside 2..1000, got (1, 9)",
        ),
        (
            {"kind": "vdm_adaptive", "decay": [0.5, 1]},
            "vdm_adaptive.decay must be a range inside 0..0.9999, got (0.5, 1)",
        ),
        ({"kind": "compose", "p": ["p2"]}, "compose.p must be among step, beta, logit_normal"),
        ({"kind": "compose", "w": ["beta"]}, "compose.w must be among p2, min_snr"),
        ({"kind": "compose", "w": ["p2", "p2"]}, "compose.w must not repeat, got p2, p2"),
        ({"kind": "compose", "floor": [0, 2]}, "compose.floor must be a range inside 0..1, got"),
        ({"kind": "phase"}, "phase.images is required"),
        ({"kind": "phase", "images": 0}, "phase.images must be at least 1, got 0"),
        (
            {"kind": "phase", "images": 9, "first": {"kind": "phase"}},
            "phase.first.kind must be one of 'speed', 'p2'",
        ),
        (
            {"kind": "decl", "clusters": [1, 20]},
            "decl.clusters must be a range inside 2..100, got (1, 20)",
        ),
        (
            {"kind": "decl", "patience": [0, 20]},
            "decl.patience must be a range inside 1..100000, got (0, 20)",
        ),
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
    process = VPConfig(schedule="cosine", timesteps=50).build()
    facts = TrainerFacts(kind="denoising", alpha_bar=process.alpha_bar)
    space("speed").check(facts)
    with pytest.raises(UserError, match=r"speed\.mirror must be false"):
        space({"kind": "speed", "mirror": True}).check(facts)
