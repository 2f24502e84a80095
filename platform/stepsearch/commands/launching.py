"""The commands that launch a search, go on with it, stop it and mend its records."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from stepsearch.commands.options import (
    SEARCHES,
    File,
    Name,
    Server,
    Sets,
    Storage,
    console,
    examples,
)
from stepsearch.commands.reading import Reader, is_elsewhere, place

if TYPE_CHECKING:
    from stepsearch.search.config import SearchConfig
    from stepsearch.search.result import SearchResult

INTERRUPTED = 130
app = typer.Typer()

Address = Annotated[
    str | None,
    typer.Option(
        metavar="ADDRESS",
        help="the Ray cluster instead of the file's: local, auto or host:port",
        show_default=False,
    ),
]


def _in_all(metavar: str, what: str) -> Any:
    return typer.Option(metavar=metavar, help=f"{what} in all", show_default=False)


@app.command(
    epilog=examples(
        "run my_search.yaml",
        "run my_search.yaml --set name=longer",
        "run --set budget.images=96000 --set space.k='[1, 25]'",
        "run my_search.yaml --resume",
    )
)
def run(
    context: typer.Context,
    file: File = None,
    set_: Sets = [],  # noqa: B006 (typer reads it)
    resume: Annotated[
        bool, typer.Option("--resume", help="go on with it if it has begun already")
    ] = False,
    address: Address = None,
) -> None:
    """Launch a search and follow it to its leaderboard.

    Ctrl-C stops it and keeps everything; `resume` goes on. With --resume the
    same command does both, for a scheduler that may start it more than once.
    """
    from stepsearch.search import driver
    from stepsearch.search.again import again, has_begun

    reader: Reader = context.obj
    config = _on(address, reader.load(file, set_))
    if resume and has_begun(config):
        _follow(driver.resume, again(config, reader.find(config.name, config.storage)))
    else:
        _follow(driver.launch, config)


@app.command(
    epilog=examples(
        "resume my-search", "resume my-search --trials 40", "resume my-search --hours 8"
    )
)
def resume(
    context: typer.Context,
    name: Name,
    trials: Annotated[int | None, _in_all("N", "trials")] = None,
    hours: Annotated[float | None, _in_all("HOURS", "hours")] = None,
    gpu_hours: Annotated[float | None, _in_all("HOURS", "GPU-hours")] = None,
    cpu_hours: Annotated[float | None, _in_all("HOURS", "CPU-hours")] = None,
    money: Annotated[float | None, _in_all("AMOUNT", "money")] = None,
    address: Address = None,
    storage: Storage = SEARCHES,
) -> None:
    """Go on with an interrupted search, or with a larger budget.

    What is named counts for the whole search, what it has spent included.
    """
    from stepsearch.search.driver import resume

    reader: Reader = context.obj
    config = reader.find(name, storage).extended(
        trials, hours=hours, gpu_hours=gpu_hours, cpu_hours=cpu_hours, money=money
    )
    _follow(resume, _on(address, config))


@app.command(
    epilog=examples(
        "submit my_search.yaml --address http://HEAD:8265",
        "submit my_search.yaml --set storage=/data/searches",
    )
)
def submit(
    context: typer.Context,
    file: File = None,
    set_: Sets = [],  # noqa: B006
    address: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            envvar=["RAY_API_SERVER_ADDRESS", "RAY_ADDRESS"],
            help="the Ray job server of the cluster",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Launch a search on a cluster, or go on with it; it needs this machine no more.

    The code goes along. `status`, `ui`, `export` and `cancel` reach it with the
    same --address.
    """
    from stepsearch.errors import UserError

    reader: Reader = context.obj
    data = reader.read(file, set_)
    config = reader.parse(data)
    if str(config.storage) != str(data.get("storage")).rstrip("/"):
        raise UserError(
            "storage must be a bucket or the whole path of a folder that all nodes see, got "
            f"{str(data.get('storage', SEARCHES))!r}"
        )
    reader.remote(address).submit(config)


@app.command(epilog=examples("cancel my-search", "cancel my-search --address http://HEAD:8265"))
def cancel(
    context: typer.Context, name: Name, storage: Storage = SEARCHES, address: Server = None
) -> None:
    """Stop a running search as Ctrl-C does: every trial saves a checkpoint."""
    from stepsearch.search.cancel import cancel
    from stepsearch.search.folder import SearchFolder

    reader: Reader = context.obj
    with console.status("every trial saves a checkpoint"):
        if is_elsewhere(address):
            reader.remote(address).cancel(name)
        else:
            cancel(SearchFolder.find(place(storage), name))
    again = "submit FILE.yaml" if is_elsewhere(address) else f"resume {name}"
    console.print(f"search {name} has stopped; `{again}` goes on with it", soft_wrap=True)


@app.command()
def reconcile(context: typer.Context, name: Name, storage: Storage = SEARCHES) -> None:
    """Compare the records of a search, and mend what a killed driver left.

    Of each trial: Optuna's study, the history and MLflow. One line for each
    difference; the exit code is 1 if something cannot be mended.
    """
    from stepsearch.search.reconcile import reconcile

    reader: Reader = context.obj
    found = reconcile(reader.find(name, storage))
    for difference in found:
        mark = "mended" if difference.mended else "STAYS "
        console.print(f"{mark} {difference}", soft_wrap=True)
    if not found:
        console.print("Optuna, the history and MLflow agree on every trial")
    if not all(difference.mended for difference in found):
        raise typer.Exit(1)


def _on(address: str | None, config: SearchConfig) -> SearchConfig:
    """The search on another cluster."""
    from stepsearch.errors import UserError

    if address == "":
        raise UserError("--address must be local, auto or host:port, got ''")
    if address is not None and address.startswith(("http://", "https://")):
        raise UserError(
            f"--address must be local, auto or host:port, got {address!r}: `submit` takes it"
        )
    return config if address is None else config.model_copy(update={"cluster": address})


def _follow(begin: Any, config: SearchConfig) -> None:
    """Run a search under the live view and print how it ended."""
    from stepsearch.search.closing import show_report
    from stepsearch.search.view import live_view

    try:
        result: SearchResult = begin(config, live_view(console))
    except KeyboardInterrupt:
        console.print(f"stopped at once; `resume {config.name}` goes on from the last checkpoints")
        raise typer.Exit(INTERRUPTED) from None
    show_report(result, console)
    if result.interrupted:
        raise typer.Exit(INTERRUPTED)
    if not any(record.outcome == "finished" for record in result.records):
        raise typer.Exit(1)  # for a scheduler that would take it for done
