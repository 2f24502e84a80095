"""strategy.json: a timestep strategy as numbers that any training loop can read."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, model_validator

from stepsearch.config import Config, parse
from stepsearch.diffusion.noise import NoiseProcess
from stepsearch.diffusion.training import TrainingConfig
from stepsearch.errors import UserError
from stepsearch.json_file import read_json
from stepsearch.strategies import FloatArray, PredictionType, Strategy, StrategyConfig
from stepsearch.strategies.base import snr
from stepsearch.strategies.carry import carry_density, carry_weight

NAME = "strategy.json"
_MAX_BYTES = 32 * 1024**2
"""Ten times what T = 50,000 takes."""

Probability = Annotated[float, Field(ge=0, le=1)]
Weight = Annotated[float, Field(ge=0)]
SignalLevel = Annotated[float, Field(ge=0, lt=1)]


class Schedule(Config):
    """The noise process whose timesteps p and w count."""

    kind: Literal["vp", "edm", "flow"] = "vp"
    name: str
    timesteps: int
    """T."""
    alpha_bar: tuple[SignalLevel, ...]
    """The signal's share of the variance, SNR / (1 + SNR); t = 0 is the least noisy."""
    diffusers: dict[str, Any]
    """Keyword arguments that give diffusers' schedulers for this kind this process."""


class Provenance(Config):
    """Where a denoiser and its strategy come from, and how well they did."""

    search: str
    trial: int
    seed: int
    images_seen: int
    """Images that the denoiser was trained on, repeats counted."""
    objective: str
    """The metric that the search made as good as it could."""
    direction: Literal["minimize", "maximize"] = "minimize"
    metrics: dict[str, float]
    """The trial's metrics at its end."""
    baseline: dict[str, float] = Field(default={})
    """The same metrics of uniform timesteps, after the same training."""
    values: tuple[float, ...] = ()
    """The objective on each seed, the trial's own first."""
    baseline_values: tuple[float, ...] = ()
    """Those of uniform timesteps."""
    speed_up: str | None = None
    """As the leaderboard words it: images the baseline needed over images this one needed."""
    git_commit: str | None = None
    versions: dict[str, str] = Field(default={})


class StrategyFile(Config):
    """The content of strategy.json."""

    version: Literal[1] = 1
    """Of this format."""
    family: str
    parameters: dict[str, Any]
    note: str = ""
    """What else to know before using p."""
    prediction_type: PredictionType
    """What the denoiser predicts; w weighs the mean squared error of this prediction."""
    p: tuple[Probability, ...]
    """Probability of drawing t; sums to 1."""
    w: tuple[Weight, ...]
    """Weight on the loss at t."""
    schedule: Schedule
    training: TrainingConfig
    """How the denoiser was trained apart from its timesteps."""
    provenance: Provenance

    @model_validator(mode="after")
    def _vectors_fit(self) -> StrategyFile:
        T = self.schedule.timesteps
        vectors = {"p": self.p, "w": self.w, "schedule.alpha_bar": self.schedule.alpha_bar}
        for name, vector in vectors.items():
            if len(vector) != T:
                raise ValueError(f"{name} must have T = {T} numbers, got {len(vector)}")
        if abs(math.fsum(self.p) - 1) > 1e-6:
            raise ValueError(f"p must sum to 1, got {math.fsum(self.p)}")
        return self

    def on(
        self, process: NoiseProcess, prediction_type: PredictionType
    ) -> tuple[FloatArray, FloatArray]:
        """p and w carried in log-SNR to another process and target; both [process.T].

        Raises UserError if no denoiser can be trained on that target there.
        """
        process.config.check(prediction_type)
        levels, to = _log_snr(np.array(self.schedule.alpha_bar)), process.log_snr
        targets = {"prediction_type": self.prediction_type, "target": prediction_type}
        p = carry_density(np.array(self.p), levels, to)
        return p / p.sum(), carry_weight(np.array(self.w), levels, to, **targets)

    def write(self, folder: Path) -> None:
        """One key a line; every float is written with all its digits."""
        content = self.model_dump(mode="json")
        lines = (f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in content.items())
        (folder / NAME).write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


def strategy_file(
    process: NoiseProcess,
    training: TrainingConfig,
    config: StrategyConfig,
    strategy: Strategy,
    provenance: Provenance,
) -> StrategyFile:
    """What strategy.json has to say. Raises UserError where the strategy does not fit T."""
    content = {
        "family": config.kind,
        "parameters": config.model_dump(mode="json", exclude={"kind"}),
        "prediction_type": training.prediction_type,
        "w": strategy.w.tolist(),
        "schedule": {
            "kind": process.kind,
            "name": process.name,
            "timesteps": process.T,
            "alpha_bar": process.alpha_bar.tolist(),
            "diffusers": process.scheduler_config(),
        },
        "training": training,
        "provenance": provenance,
    }
    return _checked(content | _density(strategy, training.batch_size), NAME)


def _log_snr(alpha_bar: FloatArray) -> FloatArray:
    with np.errstate(divide="ignore"):
        return np.log(snr(alpha_bar))


def _density(strategy: Strategy, batch_size: int) -> dict[str, Any]:
    """p, which is the density of the draws in a whole batch where that is another one."""
    p = strategy.marginal(batch_size)
    if np.array_equal(p, strategy.p):
        return {"p": p.tolist(), "note": strategy.note}
    note = (
        f"The draws of one batch depend on each other: p is the density of one draw in a batch of "
        f"{batch_size}, and would be another in batches of another size."
    )
    return {"p": p.tolist(), "note": f"{strategy.note} {note}".strip()}


def load_strategy(path: Path) -> tuple[FloatArray, FloatArray, StrategyFile]:
    """p, w (float64 [T], t = 0 the least noisy) and all the rest of a strategy.json.

    Raises UserError if there is no such file or its content is not a strategy.
    """
    file = read_json(path, StrategyFile, _MAX_BYTES)
    return np.array(file.p), np.array(file.w), file


def _checked(content: Any, where: Path | str) -> StrategyFile:
    try:
        return parse(StrategyFile, content)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
