"""A timestep strategy by itself, as `show` takes it from the command line."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import PositiveInt

from stepsearch.config import Config, parse
from stepsearch.diffusion.noise import NoiseConfig
from stepsearch.search.files import assignments
from stepsearch.strategies import AnyStrategy, FloatArray, PredictionType


class _Shown(Config):
    strategy: AnyStrategy
    noise: NoiseConfig
    prediction_type: PredictionType = "epsilon"
    batch_size: PositiveInt = 64


def tables(kind: str, schedule: str, sets: Sequence[str]) -> tuple[FloatArray, FloatArray]:
    """Density p and weight w, both [T], of the strategy `kind` on the noise schedule `schedule`.

    `sets` are KEY=VALUE: parameters of the strategy, timesteps, prediction_type or batch_size.
    Raises UserError.
    """
    values = assignments(sets)
    process = {key: values.pop(key) for key in ("timesteps",) if key in values}
    rest = {key: values.pop(key) for key in ("prediction_type", "batch_size") if key in values}
    data = {"strategy": {"kind": kind} | values, "noise": process | {"schedule": schedule}}
    shown = parse(_Shown, data | rest)
    built = shown.strategy.build(shown.noise.build().alpha_bar, shown.prediction_type)
    return built.marginal(shown.batch_size), built.w
