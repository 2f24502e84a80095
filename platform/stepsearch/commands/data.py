"""The commands about data sets."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from stepsearch.commands.options import console, examples

if TYPE_CHECKING:
    from stepsearch.diffusion.datasets.inspection import Inspection

app = typer.Typer()
data = typer.Typer(help="Data sets of pictures: what is in them.", no_args_is_help=True)
app.add_typer(data, name="data")

_SHOWN = 10


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

    from stepsearch.commands.outputs import check_picture
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
        sheet(found, side, found.channels).save(out)
    fields = {"kind": "images", "path": path, "size": side, "channels": found.channels}
    fields |= {"skip_broken": True} if found.broken else {}
    line = safe_dump({"dataset": fields}, default_flow_style=None, sort_keys=False, width=10_000)
    console.print(f"\n{line.rstrip()}", soft_wrap=True, markup=False)


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
