"""timetuner.json: tau and everything that it depends on."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from stepsearch.config import Config
from stepsearch.json_file import read_json
from stepsearch.sampling.timetuner.network import TauScope
from stepsearch.sampling.timetuner.samplers import SolverConfig

NAME = "timetuner.json"
_MAX_BYTES = 16 * 1024**2


class SavedScheduler(Config):
    """The class and the settings of diffusers' scheduler that runs the nominal timesteps."""

    cls: str = Field(alias="class")
    config: dict[str, Any]


class TunedFile(Config):
    """The content of timetuner.json: tau and everything that it depends on."""

    version: Literal[1] = 1
    """Of this format."""
    tau: tuple[float, ...]
    """What the network is told at each of its evaluations, the noisiest first."""
    timesteps: tuple[float, ...]
    """What it would be told untuned: the times of the sampler's noise levels."""
    sigmas: tuple[float, ...] | None
    """The noise levels that the scheduler is given, and the one after them; none where it looks
    the timesteps up."""
    num_steps: int
    nfe: int
    """Evaluations of the network an image."""
    tau_scope: TauScope
    guidance_scale: float | None
    """Of classifier-free guidance; tau is for this one."""
    prediction_type: str
    scales: tuple[tuple[tuple[float, float], tuple[float, float]], ...] | None
    """For tau_scope full, (alpha, sigma) at tau and at the nominal time of each evaluation."""
    sampler: SolverConfig
    scheduler: SavedScheduler | None
    """None for Analytic-DPM, which diffusers does not have."""
    denoiser: dict[str, Any]
    """What tells the network that tau was tuned for from others."""
    loss: dict[str, tuple[float, ...]]
    verdict: dict[str, Any]
    note: str = ""
    versions: dict[str, str]

    @model_validator(mode="after")
    def _lengths_fit(self) -> TunedFile:
        for name in ("tau", "timesteps"):
            if len(getattr(self, name)) != self.nfe:
                found = len(getattr(self, name))
                raise ValueError(f"{name} must have nfe = {self.nfe} numbers, got {found}")
        return self


def load_tuned(path: Path) -> TunedFile:
    """What `write_tuned` wrote. Raises UserError if there is no such file or content."""
    return read_json(path, TunedFile, _MAX_BYTES)
