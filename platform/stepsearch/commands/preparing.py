"""The commands that tell beforehand what a search will do and cost."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stepsearch.commands.options import File, Sets, console, examples
from stepsearch.commands.reading import Reader

app = typer.Typer()


@app.command(epilog=examples("plan my_search.yaml", "plan --set lanes.workers=2"))
def plan(
    context: typer.Context,
    file: File = None,
    set_: Sets = [],  # noqa: B006 (typer reads it)
) -> None:
    """Show what a search will try, what it needs and what it costs.

    Checks it like `run`, times a few real steps on this machine and writes nothing.
    """
    from stepsearch.search.plan import show_plan

    reader: Reader = context.obj
    show_plan(reader.load(file, set_), console)


@app.command(
    epilog=examples(
        "simulate my_search.yaml",
        "simulate --set trial_scheduler.reduction=3",
        "simulate my_search.yaml --curves an-earlier-search",
    )
)
def simulate(
    context: typer.Context,
    file: File = None,
    set_: Sets = [],  # noqa: B006
    curves: Annotated[
        str | None,
        typer.Option(
            metavar="FILE.csv.gz|NAME",
            help="recorded curves, or a search; without it, SpeeD on digits",
            show_default=False,
        ),
    ] = None,
    searches: Annotated[int, typer.Option(metavar="N", min=1, help="how many to simulate")] = 20,
    json: Annotated[
        Path | None, typer.Option(metavar="FILE", help="write the numbers here too")
    ] = None,
) -> None:
    """Show what the settings of a search cost, without training.

    Replays the search over recorded learning curves, many times; takes seconds.
    """
    from stepsearch.search.files import write_json
    from stepsearch.simulation.page import read_curves, show_simulation

    reader: Reader = context.obj
    config = reader.load(file, set_)
    replayed = read_curves(str(reader.curves) if curves is None else curves, config.storage)
    found = show_simulation(config, replayed, searches, console)
    if json is not None:
        write_json(json, found)
