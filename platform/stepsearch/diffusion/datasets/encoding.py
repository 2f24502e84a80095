"""Pictures encoded into a folder of latents, shard by shard: what is cut off goes on."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from stepsearch.config import Config
from stepsearch.diffusion.autoencoder import (
    CONFIG,
    AutoencoderSettings,
    autoencoder_folder,
    digest_of,
    load_autoencoder,
    read_autoencoder,
)
from stepsearch.diffusion.datasets.base import Dataset
from stepsearch.diffusion.datasets.images import ImagesConfig
from stepsearch.diffusion.datasets.latents import (
    LABELS,
    LATENTS,
    MANIFEST,
    VAE,
    LatentsConfig,
    Manifest,
    Source,
    read_manifest,
)
from stepsearch.diffusion.datasets.shards import Encoded, Pixels, Run, Shard, shards_of
from stepsearch.diffusion.weights import WEIGHTS
from stepsearch.errors import StepsearchError, UserError
from stepsearch.json_file import read_json

_SOURCE, _SHARDS = "source.json", "shards"
"""What the folder holds until all is encoded."""
_VAE_FIELD, _OUT_FIELD = "--vae", "--out"

Progress = Callable[[Iterator[Encoded], int, int], Iterable[Encoded]]
"""Passes results on; of how many shards, and how many of those were there."""


@dataclass(frozen=True)
class Encoding:
    """Pictures, the autoencoder that encodes them, and the folder that takes the latents."""

    source: Source
    data: Dataset
    settings: AutoencoderSettings
    vae: Path
    out: Path

    @classmethod
    def of(cls, pictures: ImagesConfig, vae: Path, out: Path) -> Encoding:
        """Raises UserError unless the autoencoder can encode such pictures, they are there, and
        `out` holds nothing else."""
        _check_new(out)
        folder = autoencoder_folder(vae, _VAE_FIELD)
        settings = read_autoencoder(folder, _VAE_FIELD)
        if pictures.size % settings.reduction:
            raise UserError(
                f"--size must be a multiple of {settings.reduction}, by which the autoencoder "
                f"reduces pictures, got {pictures.size}"
            )
        channels = settings.in_channels
        if "channels" in pictures.model_fields_set and pictures.channels != channels:
            raise UserError(
                f"dataset.channels must be {channels}, as the autoencoder has, "
                f"got {pictures.channels}"
            )
        pictures = pictures.model_copy(update={"channels": channels})
        data = pictures.load()
        source = Source(
            pictures=pictures,
            name=data.name,
            fingerprint=data.fingerprint,
            vae=digest_of(folder),
        )
        return cls(source, data, settings, folder, out.absolute())

    def run(self, run: Run, progress: Progress = lambda results, *_: results) -> Manifest:
        """Encode what is not encoded yet; the folder is whole when this returns.

        Raises UserError if the folder holds anything else, or cannot be written.
        """
        if (self.out / MANIFEST).exists():
            manifest = read_manifest(self.out)
            _check_same(manifest, self.source, self.out)
            LatentsConfig(path=self.out).load()
            return manifest
        with self._held():
            self._begin()
            shards = shards_of(self.data)
            todo = [shard for shard in shards if self._found(shard) is None]
            results = run(load_autoencoder(self.vae, _VAE_FIELD), todo, self._pixels)
            for encoded in progress(results, len(shards), len(shards) - len(todo)):
                self._keep(encoded)
            return self._finish(shards)

    @contextmanager
    def _held(self) -> Iterator[None]:
        """The folder, for this process alone."""
        from filelock import FileLock, Timeout

        try:
            self.out.mkdir(parents=True, exist_ok=True)
            with FileLock(self.out / ".lock", blocking=False):
                yield
        except Timeout:
            raise UserError(
                f"{_OUT_FIELD} must not be in use, got {str(self.out)!r}, which another process "
                "encodes into"
            ) from None
        except OSError as error:
            raise UserError(
                f"{_OUT_FIELD} must be a folder that can be written, got {str(self.out)!r}: "
                f"{error.strerror or error}"
            ) from None

    def _begin(self) -> None:
        """What says whose shards these are comes first."""
        _check_new(self.out)
        record = self.out / _SOURCE
        if record.exists():
            _check_same(read_json(record, Source, 2**16), self.source, self.out)
        _write(record, _json(self.source))
        (self.out / _SHARDS).mkdir(exist_ok=True)
        (self.out / VAE).mkdir(exist_ok=True)
        for name in (CONFIG, WEIGHTS):
            with suppress(shutil.SameFileError):
                shutil.copyfile(self.vae / name, self.out / VAE / name)

    def _pixels(self, shard: Shard) -> Pixels:
        part = self.data.held_out if shard.held_out else self.data.train
        pixels = part[shard.start : shard.stop]
        return (pixels.flip(3) if shard.mirrored else pixels).numpy()

    def _file(self, shard: Shard) -> Path:
        return self.out / _SHARDS / f"{shard.number:06}.npz"

    def _keep(self, encoded: Encoded) -> None:
        """The shard appears whole. Raises UserError for numbers that are none."""
        if not np.isfinite(encoded.latents).all():
            raise UserError(
                f"{_VAE_FIELD} must give latents within the range of float16, got NaN or infinite "
                f"ones: {self.vae}"
            )
        file = self._file(encoded.shard)
        part = file.with_name(f".{uuid.uuid4().hex}.part")
        try:
            with part.open("wb") as opened:
                np.savez(opened, latents=encoded.latents, variance=encoded.variance)
                opened.flush()
                os.fsync(opened.fileno())
            part.replace(file)
        finally:
            part.unlink(missing_ok=True)

    def _found(self, shard: Shard) -> Encoded | None:
        """None where it is not there, or not whole."""
        try:
            with (
                self._file(shard).open("rb") as file,
                np.load(file, allow_pickle=False) as stored,
            ):
                latents, variance = stored["latents"], float(stored["variance"])
        except Exception:  # whatever a damaged archive makes zipfile and numpy raise
            return None
        shape = shard.stop - shard.start, *self.settings.shape(self.source.pictures.size)
        whole = latents.shape == shape and latents.dtype == np.float16
        return Encoded(shard, latents, variance) if whole else None

    def _finish(self, shards: Sequence[Shard]) -> Manifest:
        """One file of all shards; the manifest makes it a data set."""
        labels = self._labels()
        if labels is not None:
            with (self.out / LABELS).open("wb") as file:
                np.save(file, labels)
        facts = self._merge(shards)
        shape = self.settings.shape(self.source.pictures.size)
        manifest = Manifest(
            **self.source.model_dump(),
            scaling_factor=self.settings.scaling_factor,
            shift_factor=self.settings.shift_factor or 0.0,
            shape=shape,
            train=sum(each.stop - each.start for each in shards if not each.held_out),
            held_out=len(self.data.held_out),
            labels=labels is not None,
            **facts,
        )
        _write(self.out / MANIFEST, _json(manifest))
        shutil.rmtree(self.out / _SHARDS)
        (self.out / _SOURCE).unlink()
        return manifest

    def _labels(self) -> npt.NDArray[np.int64] | None:
        train, held_out = self.data.train_labels, self.data.held_out_labels
        if train is None or held_out is None:
            return None
        twice = [train, train] if self.source.pictures.flip else [train]
        return torch.cat([*twice, held_out]).numpy()

    def _merge(self, shards: Sequence[Shard]) -> dict[str, Any]:
        """Write latents.npy; what the manifest says of its numbers."""
        count = sum(shard.stop - shard.start for shard in shards)
        shape = count, *self.settings.shape(self.source.pictures.size)
        digest, total, squares, variance = hashlib.sha256(), 0.0, 0.0, 0.0
        part = self.out / f".{LATENTS}.part"
        with part.open("wb") as file:
            header = {"descr": "<f2", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
            for shard in shards:
                found = self._found(shard)
                if found is None:
                    raise StepsearchError(
                        f"{self._file(shard)} was damaged: the same command goes on"
                    )
                data = found.latents.astype("<f2").tobytes()
                digest.update(data)
                file.write(data)
                numbers = found.latents.astype(np.float64)
                total, squares = total + numbers.sum(), squares + np.square(numbers).sum()
                variance += found.variance * len(numbers)
            file.flush()
            os.fsync(file.fileno())
        part.replace(self.out / LATENTS)
        mean = total / np.prod(shape)
        return {
            "digest": digest.hexdigest(),
            "mean": float(mean),
            "std": float(np.sqrt(squares / np.prod(shape) - mean**2)),
            "posterior_std": float(np.sqrt(variance / count)),
        }


def _check_new(out: Path) -> None:
    """Raise UserError if the folder holds anything but latents, finished or begun."""
    if not out.is_dir() or any((out / name).exists() for name in (MANIFEST, _SOURCE)):
        return
    if any(not each.name.startswith(".") for each in out.iterdir()):
        raise UserError(
            f"{_OUT_FIELD} must be a new folder, or one of an encoding that was cut off, "
            f"got {str(out)!r}"
        )


def _check_same(found: Source, wanted: Source, out: Path) -> None:
    """Raise UserError unless these are the same pictures, encoded in the same way."""
    for what, theirs, ours in zip(_KEYS, _values(found), _values(wanted), strict=True):
        if theirs != ours:
            raise UserError(
                f"{_OUT_FIELD} must be a new folder, or one of the same pictures and autoencoder, "
                f"got {str(out)!r}, which has {what} {theirs}, not {ours}"
            )


_KEYS = ("size", "flip", "name", "pictures", "autoencoder")


def _values(source: Source) -> tuple[object, ...]:
    pictures = source.pictures
    return pictures.size, pictures.flip, source.name, source.fingerprint, source.vae[:12]


def _json(content: Config) -> str:
    return json.dumps(content.model_dump(mode="json"), indent=2) + "\n"


def _write(file: Path, text: str) -> None:
    part = file.with_name(f".{file.name}.part")
    part.write_text(text, encoding="utf-8")
    part.replace(file)
