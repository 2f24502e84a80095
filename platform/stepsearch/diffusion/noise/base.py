"""What a noise process is: T timesteps, each with its share of signal and of noise."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from torch import Tensor

from stepsearch.config import Config
from stepsearch.errors import UserError
from stepsearch.strategies.base import FloatArray, PredictionType, read_only, snr


class ProcessConfig(Config, ABC):
    """The parameters of one kind of noise process; a subclass adds `kind`, `targets`, `build`."""

    kind: str
    timesteps: int = Field(default=1000, ge=50, le=10_000)
    """T, the number of noise levels between which a strategy tells."""

    @property
    @abstractmethod
    def targets(self) -> tuple[PredictionType, ...]:
        """What a denoiser can be trained to predict so that diffusers' samplers can use it."""

    @abstractmethod
    def build(self) -> NoiseProcess:
        """The process with these parameters."""

    def check(self, prediction_type: PredictionType) -> None:
        """Raise UserError unless a denoiser can be trained on `prediction_type` here."""
        if prediction_type not in self.targets:
            allowed = " or ".join(self.targets).replace(" or ", ", ", len(self.targets) - 2)
            raise UserError(
                f"training.prediction_type must be {allowed} on {self._described()},"
                f" got {prediction_type!r}"
            )

    def _described(self) -> str:
        return f"noise.kind {self.kind}"


class NoiseProcess(ABC):
    """x_t = a_t x0 + b_t eps for T timesteps; t is 0-based and t = 0 is the least noisy.

    x_t is what the denoiser sees: where a sampler of diffusers scales its state before the
    denoiser sees it, as EDM's do, a_t and b_t hold that factor too. Timesteps are int64 tensors
    [N]; a process that is continuous also takes levels in between as floats, see `jitter`.
    """

    kind: ClassVar[str]

    def __init__(self, config: ProcessConfig, name: str, alpha_bar: npt.ArrayLike) -> None:
        self.config = config
        self.name = name
        """Of this schedule, e.g. linear."""
        self.T = config.timesteps
        self.alpha_bar = read_only(alpha_bar)
        """a_t^2 / (a_t^2 + b_t^2), the signal's share of the variance; float64 [T]."""

    @property
    def snr(self) -> FloatArray:
        """(a / b)^2 = abar / (1 - abar)."""
        return snr(self.alpha_bar)

    @property
    def log_snr(self) -> FloatArray:
        """ln SNR; -inf where nothing is left of the signal."""
        with np.errstate(divide="ignore"):
            return np.log(self.snr)

    @property
    def sigma(self) -> FloatArray:
        """EDM's noise level SNR^(-1/2): what is to be removed from x_t / a_t; inf at SNR 0."""
        with np.errstate(divide="ignore"):
            return self.snr**-0.5

    def jitter(self, t: Tensor, generator: torch.Generator) -> Tensor:
        """The levels to train at when `t` was drawn: t itself where levels are discrete."""
        return t

    def time(self, t: Tensor) -> Tensor:
        """What the denoiser is told of `t`, as diffusers' schedulers tell it."""
        return t

    @abstractmethod
    def coefficients(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """a and b at `t`: float32, [N], on its device."""

    def add_noise(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """x_t; t has shape [N]."""
        a, b = self._coefficients_for(x0, t)
        return a * x0 + b * noise

    @abstractmethod
    def target(
        self, x0: Tensor, noise: Tensor, t: Tensor, prediction_type: PredictionType
    ) -> Tensor:
        """What a denoiser has to predict; `prediction_type` is one of the config's targets."""

    @abstractmethod
    def predict_x0(
        self, x_t: Tensor, output: Tensor, t: Tensor, prediction_type: PredictionType
    ) -> Tensor:
        """The clean image that the denoiser's output stands for."""

    @abstractmethod
    def scheduler_config(self) -> dict[str, Any]:
        """Keyword arguments that give diffusers' schedulers for this kind this process."""

    def _coefficients_for(self, images: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """a and b at `t`, shaped to multiply `images`."""
        shape = (-1,) + (1,) * (images.ndim - 1)
        a, b = self.coefficients(t)
        return a.view(shape), b.view(shape)


class Levels:
    """Numbers for each of the T timesteps as float32 tensors, copied to a device once."""

    def __init__(self, *tables: FloatArray) -> None:
        self._tables = torch.from_numpy(np.stack(tables).astype(np.float32))

    def at(self, t: Tensor) -> tuple[Tensor, ...]:
        """Every table's values at `t`."""
        if self._tables.device != t.device:
            self._tables = self._tables.to(t.device)
        return tuple(self._tables[:, t])
