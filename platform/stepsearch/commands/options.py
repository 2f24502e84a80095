"""What the commands share: where they print, the end of a help page, options of the same kind."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

SEARCHES = "searches"
console = Console(highlight=False, markup=False, emoji=False)
"""Says words as they are: an error, a path or a label may hold [brackets] and :colons:."""

File = Annotated[
    Path | None,
    typer.Argument(
        help="a search; without it, SpeeD on digits", metavar="FILE.yaml", show_default=False
    ),
]
Name = Annotated[str, typer.Argument(help="the name of a search", show_default=False)]
Sets = Annotated[
    list[str],
    typer.Option("--set", metavar="KEY=VALUE", help="change a key of FILE; can be repeated"),
]
Storage = Annotated[
    str,
    typer.Option(metavar="FOLDER", help="the folder that holds all searches, or s3://bucket/..."),
]
Server = Annotated[
    str | None,
    typer.Option(
        "--address",
        metavar="URL",
        envvar="RAY_API_SERVER_ADDRESS",
        help="of a search on a cluster: its Ray job server; local: this machine",
        show_default=False,
    ),
]


def examples(*lines: str) -> str:
    """The end of a help page; \\b keeps its lines as they are."""
    return "\b\nexamples:\n" + "\n".join(f"  python run_search.py {line}" for line in lines)
