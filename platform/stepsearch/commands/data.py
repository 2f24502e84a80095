"""The commands about data sets."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from stepsearch.commands.options import Sets, console, examples

if TYPE_CHECKING:
    from stepsearch.diffusion.datasets.inspection import Inspection
    from stepsearch.diffusion.datasets.latents import Manifest
    from stepsearch.diffusion.datasets.shards import Encoded

app = typer.Typer()
data = typer.Typer(
    help="Data sets of pictures: what is in them; their latents.", no_args_is_help=True
)
app.add_typer(data, name="data")

_SHOWN = 10
_USUAL = (0.5, 2.0)
"""Standard deviations of latents that a denoiser can be expected to learn."""


@data.command(
    epilog=examples(
        "data inspect my_pictures",
        "data inspect cifar-10-python.tar.gz --out sheet.png",
        "data inspect s3://bucket/pictures --out sheet.png --size 32",
    )
)
def inspect(
    path: Annotated[
        str,
        typer.Argument(
            metavar="PATH",
            help="a folder or zip of image files, npz, Parquet, idx, CIFAR's archive; an address",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE.png", help="show some of them there", show_default=False),
    ] = None,
    size: Annotated[
        int | None,
        typer.Option(metavar="N", help="pixels a side, of the sheet", show_default=False),
    ] = None,
) -> None:
    """Read every picture: how many, of which classes and sizes, what is broken.

    The last line is what a search file needs.
    """
    from rich.progress import track
    from yaml import safe_dump

    from stepsearch.commands.outputs import check_picture, written
    from stepsearch.config import parse
    from stepsearch.diffusion.datasets import ImagesConfig
    from stepsearch.diffusion.datasets.inspection import inspect_pictures, sheet
    from stepsearch.diffusion.datasets.places import fetched

    check_picture("--out", out, ("png", "jpg", "webp"))
    place = parse(ImagesConfig, {"path": path, "size": size or 4}).path
    found = inspect_pictures(
        fetched(place),
        lambda pictures: track(range(len(pictures)), "reading", console=console, transient=True),
    )
    console.print(_table(found))
    side = size or found.size
    if out is not None and found.sizes:
        pictures = sheet(found, side, found.channels)
        with written("--out", out):
            pictures.save(out)
    fields = {"kind": "images", "path": path, "size": side, "channels": found.channels}
    fields |= {"skip_broken": True} if found.broken else {}
    line = safe_dump({"dataset": fields}, default_flow_style=None, sort_keys=False, width=10_000)
    console.print(f"\n{line.rstrip()}", soft_wrap=True)


@data.command(
    epilog=examples(
        "data encode my_pictures --vae sd-vae-ft-mse --size 256 --out my_latents",
        "data encode my_pictures --vae my_vae --size 64 --out my_latents --flip --workers 8",
        "data encode s3://bucket/pictures --vae my_vae --size 256 --out l --address auto",
    )
)
def encode(
    path: Annotated[
        str, typer.Argument(metavar="PATH", help="pictures, as for inspect", show_default=False)
    ],
    vae: Annotated[
        Path, typer.Option(metavar="FOLDER", help="an AutoencoderKL, or a pipeline with one")
    ],
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="for the latents")],
    size: Annotated[int, typer.Option(metavar="N", help="pixels a side, of the pictures")],
    flip: Annotated[bool, typer.Option("--flip", help="mirrored pictures as well")] = False,
    batch_size: Annotated[int, typer.Option(metavar="N", min=1, help="pictures at a time")] = 32,
    workers: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=1, help="Ray actors, a GPU or a CPU each", show_default=False
        ),
    ] = None,
    address: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="their Ray cluster: local, auto or host:port",
            show_default=False,
        ),
    ] = None,
    set_: Sets = [],  # noqa: B006 (typer reads it)
) -> None:
    """Encode pictures into latents, to train on them.

    In this process, or on a Ray cluster. The same command goes on where it was
    stopped. --set changes fields of the data set: held_out, skip_broken, name ...
    The last line is what a search file needs.
    """
    import torch
    from yaml import safe_dump

    from stepsearch.config import parse
    from stepsearch.diffusion.datasets import ImagesConfig
    from stepsearch.diffusion.datasets.encoding import Encoding
    from stepsearch.diffusion.datasets.shards import encode_here
    from stepsearch.errors import UserError
    from stepsearch.search.encoders import encode_on_ray
    from stepsearch.search.files import assignments

    if address == "":
        raise UserError("--address must be local, auto or host:port, got ''")
    fields = {"path": path, "size": size, "flip": flip} | assignments(set_)
    encoding = Encoding.of(parse(ImagesConfig, fields, "dataset"), vae, out)
    here = workers is None and address is None
    torch.set_num_threads(len(os.sched_getaffinity(0)))  # the command line keeps to one
    run = encode_here if here else partial(encode_on_ray, address or "local", workers)
    try:
        manifest = encoding.run(run(batch_size), _shown)
    except KeyboardInterrupt:
        console.print("stopped; the same command goes on")
        raise typer.Exit(130) from None
    console.print(_made(manifest))
    low, high = _USUAL
    if not low < manifest.std < high:
        console.print(
            f"warning: denoisers expect a standard deviation of about 1: set scaling_factor to "
            f"{manifest.scaling_factor / manifest.std:.4g} in the autoencoder's config.json",
            soft_wrap=True,
        )
    line = safe_dump({"dataset": {"kind": "latents", "path": str(out)}}, default_flow_style=None)
    console.print(f"\n{line.rstrip()}", soft_wrap=True)


def _shown(results: Iterator[Encoded], shards: int, done: int) -> Iterable[Encoded]:
    from rich.progress import track

    return track(
        results,
        "encoding",
        shards,
        completed=done,
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )


def _made(manifest: Manifest) -> Table:
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    twice = ", mirrored ones among them" if manifest.pictures.flip else ""
    said = f"mean {manifest.mean:.3g}, standard deviation {manifest.std:.3g}"
    table.add_row("pictures", f"{manifest.train}{twice}; {manifest.held_out} held out")
    table.add_row("latents", "x".join(map(str, manifest.shape)))
    table.add_row("numbers", f"{said}; of the posteriors {manifest.posterior_std:.3g}")
    return table


def _table(found: Inspection) -> Table:
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    apart = f" ({found.held_out} held out by their authors)" if found.held_out else ""
    sizes = ((f"{width}x{height}", n) for (width, height), n in found.sizes.most_common())
    for name, value in {
        "format": found.format,
        "pictures": f"{len(found.pictures)}{apart}",
        "classes": _counts(found.classes.items()) if found.classes else "none",
        "sizes": _counts(sizes),
        "pixels": _counts(found.modes.most_common()),
        "broken": _listed(found.broken, len(found.broken)) if found.broken else "none",
    }.items():
        table.add_row(name, Text(value))
    return table


def _counts(counted: Iterable[tuple[str, int]]) -> str:
    """`a (3), b (2) ...`, with how many kinds there are if they are not all shown."""
    kinds = [f"{name} ({count})" for name, count in counted]
    return _listed(kinds, len(kinds))


def _listed(words: list[str], count: int) -> str:
    shown = ", ".join(words[:_SHOWN])
    return shown if count <= _SHOWN else f"{count}: {shown} ..."
