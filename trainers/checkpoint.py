"""A trained denoiser to draw images with: of an earlier search, a bundle or a diffusers folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from pydantic import Field

from stepsearch.config import AbsolutePath, Config, Name, Place, merge, parse
from stepsearch.errors import UserError
from stepsearch.strategies import FloatArray
from trainers.denoising import DenoisingConfig
from trainers.training_trial import CHECKPOINT

if TYPE_CHECKING:
    from torch import nn

    from stepsearch.search.result import SearchResult

_PROCESS = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas")
_MAX_BYTES = 2**20
_MAX_T = 100_000


@dataclass(frozen=True, eq=False)
class Trained:
    """What is known of a trained denoiser before its weights are read."""

    noise: dict[str, Any]
    """Keyword arguments that give diffusers' schedulers its process."""
    alpha_bar: FloatArray
    prediction_type: str
    shape: tuple[int, int, int]
    load: Callable[[], nn.Module]
    """Its network, on the CPU, which requires no gradients; raises UserError."""
    classes: int = 0
    """Those that it is told apart; 0: it is told none."""
    null_trained: bool = False
    """Whether it has learned the null class, as far as is known."""


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
        if config.dataset.kind == "latents":
            raise UserError(
                f"checkpoint must draw pictures, got {self.name!r}, which draws latents"
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
    """A bundle that `export` wrote, or the folder of a diffusers pipeline."""

    kind: Literal["folder"] = "folder"
    path: AbsolutePath

    def pinned(self) -> FolderCheckpoint:
        return self

    def look(self) -> Trained:
        """Raises UserError unless it holds a UNet2DModel and a process of betas."""
        pipeline = self.path / "pipeline" if (self.path / "pipeline").is_dir() else self.path
        unet = _settings(pipeline / "unet" / "config.json", self.path)
        scheduler = _settings(pipeline / "scheduler" / "scheduler_config.json", self.path)
        if unet.get("_class_name") != "UNet2DModel":
            kind = unet.get("_class_name", "no class")
            raise UserError(f"checkpoint must hold a UNet2DModel, got {kind}")
        classes = _classes(unet)
        if "beta_schedule" not in scheduler:
            raise UserError(
                "checkpoint must have a scheduler with betas, as DDPMScheduler has, "
                f"got {scheduler.get('_class_name')}"
            )
        noise = {name: scheduler[name] for name in _PROCESS if name in scheduler}
        return Trained(
            noise,
            _alpha_bar(noise),
            scheduler.get("prediction_type", "epsilon"),
            _shape(unet),
            lambda: _load(pipeline / "unet"),
            classes,
            null_trained=classes > 0,
        )


AnyCheckpoint = Annotated[SearchCheckpoint | FolderCheckpoint, Field(discriminator="kind")]


@lru_cache(maxsize=4)
def look(checkpoint: SearchCheckpoint | FolderCheckpoint) -> Trained:
    """What a checkpoint holds, once a process. Raises UserError."""
    found = checkpoint.look()
    if found.alpha_bar[-1] <= 0:
        raise UserError("checkpoint must have some signal at T - 1, got zero terminal SNR")
    return found


def _settings(path: Path, folder: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as opened:
            settings = json.loads(opened.read(_MAX_BYTES))
    except OSError as error:
        raise UserError(
            "checkpoint.path must be a bundle or a diffusers pipeline with unet/ and scheduler/, "
            f"got {str(folder)!r}: {path.name}: {error.strerror}"
        ) from None
    except (ValueError, RecursionError):
        raise UserError(f"checkpoint.path must have JSON in {path.name}, got {path}") from None
    if not isinstance(settings, dict):
        raise UserError(f"checkpoint.path must have a mapping in {path.name}, got {path}")
    return settings


def _shape(unet: dict[str, Any]) -> tuple[int, int, int]:
    """(C, H, W) of the images that it draws."""
    channels, size = unet.get("in_channels", 3), unet.get("sample_size")
    sides = size if isinstance(size, list) and len(size) == 2 else [size, size]
    found = [number for number in (channels, *sides) if isinstance(number, int) and number > 0]
    if len(found) < 3:
        raise UserError(
            "checkpoint must say the size of its images in unet/config.json, "
            f"got in_channels {channels!r} and sample_size {size!r}"
        )
    return found[0], found[1], found[2]


def _classes(unet: dict[str, Any]) -> int:
    """Those that it knows besides the null class, the last row of its table."""
    rows, embedding = unet.get("num_class_embeds"), unet.get("class_embed_type")
    if embedding is not None or not (rows is None or (isinstance(rows, int) and rows >= 2)):
        raise UserError(
            "checkpoint must hold a UNet2DModel with a table of 2 or more classes or none,"
            f" got class_embed_type {embedding!r} and num_class_embeds {rows!r}"
        )
    return 0 if rows is None else rows - 1


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


def _load(folder: Path) -> nn.Module:
    from diffusers import UNet2DModel

    try:
        model, info = UNet2DModel.from_pretrained(
            folder, use_safetensors=True, low_cpu_mem_usage=False, output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError, TypeError, KeyError) as error:
        reason = " ".join(line.strip() for line in str(error).splitlines()[:2])
        raise UserError(f"checkpoint must have weights that fit its config: {reason}") from None
    wrong = [name for names in info.values() for name in names]
    if wrong:
        raise UserError(
            f"checkpoint must have weights that fit its config, got {len(wrong)} that do not, "
            f"{wrong[0]} the first"
        )
    network: nn.Module = model.requires_grad_(False).eval()
    return network
