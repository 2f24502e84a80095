"""A trained denoiser to draw images with: of an earlier search, a bundle or a diffusers folder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from pydantic import Field

from stepsearch.config import AbsolutePath, Config, Name, Place, merge, parse
from stepsearch.diffusion.autoencoder import read_autoencoder
from stepsearch.diffusion.denoisers.saved import (
    SavedNetwork,
    load_network,
    network_folder,
    read_saved,
)
from stepsearch.errors import UserError
from stepsearch.json_file import read_mapping
from stepsearch.strategies import FloatArray
from trainers.denoising import DenoisingConfig
from trainers.training_trial import CHECKPOINT

if TYPE_CHECKING:
    from torch import nn

    from stepsearch.search.result import SearchResult

_PROCESS = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas")
_RESCALED = "rescale_betas_zero_snr"
"""Not every scheduler of diffusers takes it, even where it is false."""
_FIELD = "checkpoint.path"
_MAX_BYTES = 2**20
"""Of a scheduler's configuration, which may list its betas."""
_MAX_T = 100_000


@dataclass(frozen=True, eq=False)
class Trained:
    """What is known of a trained denoiser before its weights are read."""

    noise: dict[str, Any]
    """Keyword arguments that give diffusers' schedulers its process."""
    alpha_bar: FloatArray
    prediction_type: str
    shape: tuple[int, int, int]
    """(C, H, W) of what it draws."""
    load: Callable[[], nn.Module]
    """Its network, on the CPU, which requires no gradients; raises UserError."""
    classes: int = 0
    """Those that it is told apart; 0: it is told none."""
    null_trained: bool = False
    """Whether it has learned the null class, as far as is known."""
    vae: Path | None = None
    """The folder of the autoencoder whose latents it draws; none: it draws pictures."""


class SearchCheckpoint(Config):
    """The best trial of an earlier search, or one that is named, with averaged weights."""

    kind: Literal["search"] = "search"
    name: Name
    trial: int | None = Field(None, ge=0, description="none: the best one")
    storage: Place = Field(Path("searches"), validate_default=True)

    def pinned(self) -> SearchCheckpoint:
        """With the trial that is the best one now."""
        _, number = self._found()
        return self.model_copy(update={"trial": number})

    def look(self) -> Trained:
        """Raises UserError unless that trial has finished, on a variance-preserving process."""
        result, number = self._found()
        record = next(r for r in result.records if r.number == number)
        data = merge(result.config.trainer, record.proposed)
        config = parse(DenoisingConfig, data, where=f"search {self.name}: trainer")
        if config.noise.kind != "vp":
            raise UserError(
                f"checkpoint must have a variance-preserving process (noise.kind vp), "
                f"got {config.noise.kind} of {self.name}"
            )
        process, dataset = config.noise.build(), config.dataset.load()

        def load() -> nn.Module:
            result.folder.mirror.bring_trial(number, checkpoints=True)
            seed = result.config.seed + record.attrs.get("seed", 0)
            file = result.folder.trial(number) / CHECKPOINT
            training = config.loaded(file, seed, result.config.budget.images)
            return training.ema.requires_grad_(False).eval()

        return Trained(
            process.scheduler_config(),
            process.alpha_bar,
            config.training.prediction_type,
            dataset.shape,
            load,
            config.denoiser.classes(dataset),
            config.training.label_dropout > 0,
            dataset.vae,
        )

    def _found(self) -> tuple[SearchResult, int]:
        from stepsearch.search.config import SearchConfig  # with Optuna, which other trials spare
        from stepsearch.search.folder import SearchFolder
        from stepsearch.search.result import SearchResult

        folder = SearchFolder.find(self.storage, self.name)
        data = folder.read_config() | {"storage": self.storage}
        result = SearchResult.read(parse(SearchConfig, data))
        kind = result.config.trainer.get("kind", "denoising")
        if kind != "denoising":
            raise UserError(
                f"checkpoint.name must be a search that trains denoisers, got {self.name!r} "
                f"with trainer {kind!r}"
            )
        finished = {row.number: row for row in result.leaderboard.rows if row.values}
        best = result.winner or next(iter(finished.values()), None)
        if best is None:
            raise UserError(f"checkpoint.name must have a finished trial, {self.name} has none")
        number = best.number if self.trial is None else self.trial
        if number not in finished:
            known = ", ".join(map(str, sorted(finished)))
            raise UserError(f"checkpoint.trial must have finished ({known}), got {number}")
        return result, number


class FolderCheckpoint(Config):
    """A bundle that `export` wrote, or the folder of a diffusers pipeline.

    Its network is one that `denoiser: {kind: pretrained}` trains on from. No code in the folder is
    run.
    """

    kind: Literal["folder"] = "folder"
    path: AbsolutePath

    def pinned(self) -> FolderCheckpoint:
        return self

    def look(self) -> Trained:
        """Raises UserError unless it holds such a network and a process of betas."""
        pipeline = self.path / "pipeline" if (self.path / "pipeline").is_dir() else self.path
        folder = network_folder(pipeline, _FIELD)
        saved = read_saved(folder, _FIELD)
        into, out = saved.channels
        if out not in (into, 2 * into):
            raise UserError(
                f"{_FIELD} must be a network with as many channels out as in, or twice as many "
                f"where it predicts a variance, got {into} in and {out} out: {folder}"
            )
        scheduler = _scheduler(pipeline)
        if "beta_schedule" not in scheduler:
            raise UserError(
                "checkpoint must have a scheduler with betas, as DDPMScheduler has, "
                f"got {scheduler.get('_class_name')}"
            )
        noise = _process(scheduler)
        return Trained(
            noise,
            _alpha_bar(noise),
            scheduler.get("prediction_type", "epsilon"),
            (into, *saved.sample_size),
            lambda: _load(folder, saved),
            saved.classes,
            null_trained=saved.classes > 0,
            vae=_vae(pipeline),
        )


AnyCheckpoint = Annotated[SearchCheckpoint | FolderCheckpoint, Field(discriminator="kind")]


@lru_cache(maxsize=4)
def look(checkpoint: SearchCheckpoint | FolderCheckpoint) -> Trained:
    """What a checkpoint holds, once a process. Raises UserError."""
    found = checkpoint.look()
    if found.alpha_bar[-1] <= 0:
        raise UserError("checkpoint must have some signal at T - 1, got zero terminal SNR")
    return found


def _load(folder: Path, saved: SavedNetwork) -> nn.Module:
    """To draw with; of a variance that it predicts, too, nothing is used, as in DiTPipeline."""
    network = load_network(folder, saved, _FIELD).requires_grad_(False).eval()
    channels, out = saved.channels
    if out > channels:
        network.register_forward_hook(
            lambda _module, _given, output: type(output)(sample=output.sample[:, :channels])
        )
    return network


def _scheduler(pipeline: Path) -> dict[str, Any]:
    file = pipeline / "scheduler" / "scheduler_config.json"
    if not file.is_file():
        raise UserError(
            f"{_FIELD} must be a bundle or a diffusers pipeline with scheduler/, "
            f"got {str(pipeline)!r}"
        )
    return read_mapping(file, _MAX_BYTES)


def _process(scheduler: dict[str, Any]) -> dict[str, Any]:
    """What its configuration says of the noise process."""
    noise = {name: scheduler[name] for name in _PROCESS if name in scheduler}
    return noise | ({_RESCALED: True} if scheduler.get(_RESCALED) else {})


def _vae(pipeline: Path) -> Path | None:
    """The folder of its autoencoder, if there is one."""
    folder = pipeline / "vae"
    if not folder.is_dir():
        return None
    read_autoencoder(folder, _FIELD)
    return folder


def _alpha_bar(noise: dict[str, Any]) -> FloatArray:
    from diffusers import DDPMScheduler

    T = noise.get("num_train_timesteps", 1000)
    if not isinstance(T, int) or not 2 <= T <= _MAX_T:
        raise UserError(f"checkpoint must have 2 to {_MAX_T} timesteps, got {T!r}")
    try:
        alpha_bar = DDPMScheduler(**noise).alphas_cumprod
    except (NotImplementedError, TypeError, ValueError) as error:
        raise UserError(f"checkpoint must have a process that diffusers knows: {error}") from None
    return np.asarray(alpha_bar.double().numpy())
