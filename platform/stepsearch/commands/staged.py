"""The boundaries of a data set's stages, as `stages` takes it from the command line."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from pydantic import Field, field_validator
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table
from torch import Tensor

from stepsearch.commands.outputs import check_file, check_picture, written
from stepsearch.config import parse
from stepsearch.diffusion.datasets import DATASETS
from stepsearch.diffusion.datasets.latents import MANIFEST
from stepsearch.diffusion.stages import (
    Found,
    StagesConfig,
    check_boundaries,
    latents,
    pixels,
)
from stepsearch.diffusion.stages.baselines import Boundaries
from stepsearch.diffusion.stages.figure import methods, stages_figure
from stepsearch.diffusion.stages.find import stages_of
from stepsearch.diffusion.stages.gradients import gradient_similarity
from stepsearch.diffusion.stages.kernels import KernelName, matched
from stepsearch.diffusion.stages.optimal import OptimalDenoiser, check_device
from stepsearch.diffusion.stages.sharded import ShardedDenoiser
from stepsearch.diffusion.stages.similarity import Denoiser
from stepsearch.errors import UserError
from stepsearch.search.files import assignments, write_json

_PLACES = ("images", "latents")
"""Kinds of data sets that are known by their path."""
_SMALL = 1e11
"""Floating-point operations, about a second; below, a second thread costs more than it gives."""


class _Asked(StagesConfig):
    kernel: KernelName = "vp"
    """The clock in which boundaries are told."""
    signed: bool = False
    """Pixels in [-1, 1], as they are trained on, instead of the paper's [0, 1]."""
    gradients: int = Field(default=0, ge=0)
    """Steps of the training whose gradients are clustered; 0: it is left out."""
    compare: tuple[float, ...] | None = None
    """Boundaries of one's own, as times of the VP kernel."""
    workers: int | None = Field(default=None, ge=1)
    """Of a Ray cluster, with a part of the data set each; none: as many as an --address has."""

    @field_validator("compare")
    @classmethod
    def _in_order(cls, compare: tuple[float, ...] | None) -> tuple[float, ...] | None:
        return None if compare is None else check_boundaries(compare, "compare")


def show_stages(
    dataset: str,
    options: dict[str, Any],
    sets: Sequence[str],
    console: Console,
    *,
    address: str | None = None,
    out: Path | None = None,
    json: Path | None = None,
) -> None:
    """Find the boundaries and print them beside those of other methods.

    `sets` are KEY=VALUE, of the method or of the data set; `out` takes the figure. With an address
    or workers the data set is sharded over a Ray cluster. Raises UserError, for what cannot be
    written too before the work begins.
    """
    check_picture("--out", out, FigureCanvasAgg.get_supported_filetypes())
    check_file("--json", json)
    values = assignments(sets)
    own = {key: values.pop(key) for key in list(values) if key in _Asked.model_fields}
    asked = parse(_Asked, options | own)
    if address is None and asked.workers is None:
        found = _find_here(dataset, values, asked, console)
    else:
        found = _find_sharded(dataset, values, asked, address or "local", console)
    rows = methods(found) | ({} if asked.compare is None else {"compare": asked.compare})
    _print(found, rows, asked, console)
    if out is not None:
        figure = stages_figure(found, title=Path(dataset).stem)
        with written("--out", out):
            figure.savefig(out)
    if json is not None:
        write_json(json, _as_json(found, rows, asked))


def _find_here(dataset: str, values: dict[str, Any], asked: _Asked, console: Console) -> Found:
    check_device(asked.device)
    images, is_pixels = _read(dataset, values)
    points = pixels(images, signed=asked.signed) if is_pixels else latents(images)
    _use_all_cpus(4.0 * asked.samples * len(points) * points.d)
    gradients = None
    if asked.gradients:
        with console.status(f"training a denoiser for {asked.gradients} steps"):
            gradients = gradient_similarity(_trainable(images), asked.gradients, asked.seed)
    denoiser = OptimalDenoiser(points, device=asked.device, memory=asked.memory * 2**20)
    return _find(denoiser, asked, gradients, console)


def _find_sharded(
    dataset: str, values: dict[str, Any], asked: _Asked, address: str, console: Console
) -> Found:
    from stepsearch.search.sharding import sharded

    if asked.gradients:
        raise UserError(
            "gradients must be 0 where the data set is sharded: one process trains on all of it,"
            f" got {asked.gradients}"
        )
    memory = asked.memory * 2**20
    shards = sharded(
        partial(_read, _absolute(dataset), values),
        asked.workers,
        address=address,
        signed=asked.signed,
        device=asked.device,
        memory=memory,
    )
    with shards as everywhere:
        with console.status("reading"):
            denoiser = ShardedDenoiser(everywhere, memory=memory)
        return _find(denoiser, asked, None, console)


def _absolute(dataset: str) -> str:
    """Workers have another folder."""
    is_path = dataset not in DATASETS and Path(dataset).exists()
    return str(Path(dataset).absolute()) if is_path else dataset


def _read(dataset: str, values: dict[str, Any]) -> tuple[Tensor, bool]:
    """The training images or the latents, [N, C, ...], and whether they are pixels."""
    path = Path(dataset)
    try:
        exists = path.exists()
    except OSError as error:
        raise UserError(
            f"DATASET must be one that can be read, got {dataset!r}: {error.strerror}"
        ) from None
    if dataset in DATASETS and dataset not in _PLACES:
        return parse(DATASETS[dataset], {"kind": dataset} | values, "dataset").load().train, True
    if path.suffix == ".npy":
        parse(_Asked, values)  # a file has no keys of its own: these are none of the method's
        array = _load(path)
        return torch.from_numpy(array), array.dtype == np.uint8
    if (path / MANIFEST).is_file():
        encoded = {"kind": "latents", "path": dataset} | values
        return parse(DATASETS["latents"], encoded, "dataset").load().train, False
    if exists or "://" in dataset:
        named = {"kind": "images", "path": dataset} | values
        return parse(DATASETS["images"], named, "dataset").load().train, True
    names = ", ".join(name for name in DATASETS if name not in _PLACES)
    raise UserError(
        f"DATASET must be one of {names}, the path or address of images, or a .npy file, "
        f"got {dataset!r}"
    )


def _load(path: Path) -> np.ndarray[Any, np.dtype[Any]]:
    """Read where it lies, not into memory."""
    try:
        array: np.ndarray[Any, np.dtype[Any]] = np.load(path, mmap_mode="c", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"DATASET must be a .npy file, got {str(path)!r}: {reason}") from None
    if array.dtype not in (np.uint8, np.float16, np.float32, np.float64):
        raise UserError(
            f"DATASET must hold uint8 (pixels) or floats (latents), got {array.dtype} in {path}"
        )
    return array


def _trainable(images: Tensor) -> Tensor:
    if images.ndim != 4:
        raise UserError(
            f"gradients must be of images [N, C, H, W], got a data set {tuple(images.shape)}"
        )
    return images.float() if images.dtype == torch.float64 else images


def _use_all_cpus(operations: float) -> None:
    """The command line keeps to one thread, for searches."""
    if operations > _SMALL:
        torch.set_num_threads(len(os.sched_getaffinity(0)))


def _find(denoiser: Denoiser, asked: _Asked, gradients: Any, console: Console) -> Found:
    columns = (TextColumn("optimal denoiser"), BarColumn(), TaskProgressColumn())
    shown = console.is_terminal
    with Progress(
        *columns, TimeRemainingColumn(), console=console, transient=True, disable=not shown
    ) as progress:
        task = progress.add_task("", total=1.0)
        return stages_of(
            denoiser,
            asked,
            gradients=gradients,
            progress=lambda share: progress.update(task, completed=share),
        )


def _print(found: Found, rows: dict[str, Boundaries], asked: _Asked, console: Console) -> None:
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("method")
    table.add_column(f"boundaries ({asked.kernel})", no_wrap=True)
    table.add_column("sigma", no_wrap=True)
    table.add_column("unlikeness", justify="right")
    for name, boundaries in rows.items():
        clock, sigma = (_told(boundaries, kernel) for kernel in (asked.kernel, "edm"))
        table.add_row(name, clock, sigma, f"{found.unlikeness(boundaries):.4f}")
    if not asked.gradients:
        table.add_row("gradient clusters", "--set gradients=300", "", "")
    console.print(table)
    for warning in found.warnings:
        console.print(f"warning: {warning}", soft_wrap=True)


def _told(boundaries: Boundaries, kernel: KernelName) -> str:
    times = matched(np.array(boundaries), kernel)
    return " ".join(f"{t:.3f}" if t < 10 else f"{t:.2f}" for t in times)


def _as_json(found: Found, rows: dict[str, Boundaries], asked: _Asked) -> dict[str, Any]:
    """Boundaries in the kernel's clock; everything else in VP's."""
    edges = np.array(found.boundaries)
    return {
        "boundaries": matched(edges, asked.kernel).tolist(),
        "sigma": matched(edges, "edm").tolist(),
        "warnings": list(found.warnings),
        "settings": asked.model_dump(mode="json"),
        "points": list(found.points),
        "methods": {
            name: {"vp": list(each), "unlikeness": found.unlikeness(each)}
            for name, each in rows.items()
        },
        "farthest": [crossing.farthest for crossing in found.crossings],
        "curves": {
            "t": found.ends.t.tolist(),
            "to_data": found.ends.to_data.tolist(),
            "to_noise": found.ends.to_noise.tolist(),
        },
        "similarity": found.grid.similarity.tolist(),
    }
