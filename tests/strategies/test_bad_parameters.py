"""What strategies refuse: every range of every parameter, in one line, and what rules them all."""

from typing import Any

import annotated_types as limits
import pytest
from pydantic import TypeAdapter

from stepsearch.errors import UserError
from stepsearch.strategies import STRATEGIES, AnyStrategy, strategy
from stepsearch.strategies.adaptive.table import LearnedConfig

UNIFORM: dict[str, Any] = {"strategy": {"kind": "uniform"}}
FREE: dict[str, Any] = {"strategy": {"kind": "uniform", "stratify": False}}
LATTICE: dict[str, Any] = {"strategy": {"kind": "compose", "lattice": True}}
LEARNED = [kind for kind, config in STRATEGIES.items() if issubclass(config, LearnedConfig)]
REQUIRED = {"phase": {"phases": [UNIFORM | {"images": 64}, UNIFORM]}}
WORDS = {
    limits.Ge: ("ge", "at least", -1),
    limits.Gt: ("gt", "greater than", 0),
    limits.Le: ("le", "at most", 1),
    limits.Lt: ("lt", "less than", 0),
}
RANGES = [
    (kind, name, rule, getattr(rule, WORDS[type(rule)][0]))
    for kind, config in STRATEGIES.items()
    for name, field in config.model_fields.items()
    for rule in field.metadata
    if type(rule) in WORDS
]


def refused(kind: str, parameters: dict[str, Any]) -> str:
    with pytest.raises(UserError) as error:
        strategy(kind, **parameters)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_almost_every_number_has_a_range() -> None:
    assert len(RANGES) > 50


@pytest.mark.parametrize(
    ("kind", "name", "rule", "limit"), RANGES, ids=lambda value: str(value) if value else "0"
)
def test_every_limit_is_kept_and_told(kind: str, name: str, rule: Any, limit: float) -> None:
    _, words, beyond = WORDS[type(rule)]
    got = limit + beyond
    message = refused(kind, REQUIRED.get(kind, {}) | {name: got})
    assert message == f"{kind}.{name} must be {words} {limit:g}, got {got!r}"


# fmt: off
MISTAKES = [
    ("p2", {"gamma": -0.1}, "p2.gamma must be at least 0, got -0.1"),
    ("p2", {"gamma": float("nan")}, "p2.gamma must be a finite number, got nan"),
    ("p2", {"k": 0}, "p2.k must be greater than 0, got 0"),
    ("p2", {"k": "a"}, "p2.k must be a number, got 'a'"),
    ("p2", {"tau": 3}, "p2.tau is not a known key"),
    ("min_snr", {"gamma": 0}, "min_snr.gamma must be greater than 0, got 0"),
    ("min_snr", {"gamma": -5}, "min_snr.gamma must be greater than 0, got -5"),
    ("min_snr", {"gamma": float("inf")}, "min_snr.gamma must be a finite number, got inf"),
    ("min_snr", {"gamma": [5]}, "min_snr.gamma must be a number, got [5]"),
    ("mode", {"scale": 1.76}, "mode.scale must be at most 1.75194, got 1.76"),
    ("timestep_bias", {"begin": 0.5, "end": 0.5},
     "timestep_bias.begin must be below end (0.5), got 0.5"),
    ("speed", {"tau": 7, "r": 7}, "speed must have one of tau, r, abar, got tau and r"),
    ("step", {"abar": 0.1, "r": 7}, "step must have one of tau, r, abar, got r and abar"),
    ("vlb", {"variance": "large"}, "vlb.variance must be one of 'fixed_large' or"),
    ("table", {"p": []}, "table.p must be a list of 1 or more, got []"),
    ("table", {"p": [0, 0]}, "table.p must have a number above 0, got none"),
    ("table", {"p": [1, -1]}, "table.p[1] must be at least 0, got -1"),
    ("table", {"w": [float("nan")]}, "table.w[0] must be a finite number, got nan"),
    ("table", {"alpha_bar": [0.5, 0.9]}, "table.alpha_bar must be falling, got a level that"),
    ("table", {"alpha_bar": [1, 0.9]}, "table.alpha_bar[0] must be less than 1, got 1"),
    ("table", {"p": [1, 2, 3], "alpha_bar": [0.9, 0.5]},
     "table.p must have 1 or 2 numbers, got 3"),
    ("compose", {"p": {"kind": "min_snr"}}, "compose.p.kind must be one of 'uniform', 'step'"),
    ("compose", {"w": {"kind": "speed"}}, "compose.w.kind must be one of 'uniform', 'p2'"),
    ("compose", {"w": {"kind": "p2", "gama": 1}},
     "compose.w.gama is not a known key; did you mean 'gamma'?"),
    ("compose", {"p": {"kind": "beta", "stratify": False}},
     "compose.p.stratify must be given as compose.stratify, got False"),
    ("compose", {"mirror": True, "antithetic": True},
     "compose.antithetic must be false when mirror is true, got True"),
    ("compose", {"mirror": True, "importance_correct": True},
     "compose.importance_correct must be false when mirror is true, got True"),
    ("phase", {}, "phase.phases is required"),
    ("phase", {"phases": [{"strategy": {"kind": "uniform"}}]},
     "phase.phases must be a list of 2 or more, got [{"),
    ("phase", {"phases": [UNIFORM, UNIFORM]},
     "phase.phases must have images in all but the last, got none in [0]"),
    ("phase", {"phases": [UNIFORM | {"images": 9}, UNIFORM | {"images": 9}]},
     "phase.phases must end with one without images and ramp, got one with"),
    ("phase", {"phases": [UNIFORM | {"images": 0}, UNIFORM]},
     "phase.phases[0].images must be at least 1, got 0"),
    ("phase", {"phases": [{"strategy": {"kind": "sped"}}, UNIFORM]},
     "phase.phases[0].strategy.kind must be one of 'speed', 'speed_released'"),
    ("phase", {"stratify": False, "phases": [UNIFORM | {"images": 9}, UNIFORM]},
     "phase.stratify must be given in the strategy of each phase, got False"),
    ("phase", {"phases": [UNIFORM | {"images": 9}, UNIFORM | {"images": 9, "ramp": True}, FREE]},
     "phase.phases must have the same stratify before and after a ramp, got True in [1] and"
     " False in [2]"),
    ("phase", {"phases": [LATTICE | {"images": 9, "ramp": True}, UNIFORM]},
     "phase.phases must have the same lattice before and after a ramp, got True in [0] and"
     " False in [1]"),
    *((kind, {"w": {"kind": "p2", "stratify": False}},
       f"{kind}.w.stratify must be given as {kind}.stratify, got False") for kind in LEARNED),
    ("uniform", {"stratify": "no way"}, "uniform.stratify must be true or false, got"),
    ("uniform", {"k": 1}, "uniform.k is not a known key (known keys: kind, stratify)"),
    ("sped", {}, f"strategy must be one of {', '.join(STRATEGIES)}, got 'sped'"),
]
# fmt: on


@pytest.mark.parametrize(("kind", "parameters", "message"), MISTAKES)
def test_bad_parameters_are_refused_in_one_line(
    kind: str, parameters: dict[str, Any], message: str
) -> None:
    assert refused(kind, parameters).startswith(message)


@pytest.mark.parametrize("kind", STRATEGIES)
def test_a_config_names_its_kind_and_is_read_back_by_it(kind: str) -> None:
    own = REQUIRED.get(kind, {"stratify": False})
    config = strategy(kind, **own)
    assert config.kind == kind
    assert TypeAdapter(AnyStrategy).validate_python(config.model_dump()) == config
