"""A timestep strategy by itself, as `show` takes it from the command line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import PositiveInt

from stepsearch.config import Config, merge, parse
from stepsearch.diffusion.noise import PROCESSES, AnyNoise, NoiseProcess
from stepsearch.search.files import assignments
from stepsearch.strategies import AnyStrategy, FloatArray, PredictionType


class _Noise(Config):
    noise: AnyNoise


class _Shown(_Noise):
    strategy: AnyStrategy
    prediction_type: PredictionType | None = None
    batch_size: PositiveInt = 64


def process_of(name: str, timesteps: int) -> NoiseProcess:
    """The noise process behind a name: a schedule of betas, edm or flow. Raises UserError."""
    data = {"noise": _named(name) | {"timesteps": timesteps}}
    return parse(_Noise, data).noise.build()


def _named(name: str) -> dict[str, Any]:
    return {"kind": name} if name in PROCESSES else {"schedule": name}


def tables(kind: str, schedule: str, sets: Sequence[str]) -> tuple[FloatArray, FloatArray]:
    """Density p and weight w, both [T], of the strategy `kind` on the noise process `schedule`: a
    schedule of betas, edm or flow.

    `sets` are KEY=VALUE: parameters of the strategy, timesteps, noise.KEY, prediction_type (the
    process's first target unless given) or batch_size. Raises UserError.
    """
    values = assignments(sets)
    process = _named(schedule) | {key: values.pop(key) for key in ("timesteps",) if key in values}
    noise = merge({"noise": process}, {"noise": values.pop("noise", {})})
    rest = {key: values.pop(key) for key in ("prediction_type", "batch_size") if key in values}
    shown = parse(_Shown, {"strategy": {"kind": kind} | values} | noise | rest)
    target = shown.prediction_type or shown.noise.targets[0]
    shown.noise.check(target)
    built = shown.strategy.build(shown.noise.build().alpha_bar, target)
    return built.marginal(shown.batch_size), built.w
