"""The commands that look at searches, and around; none changes one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stepsearch.commands.options import SEARCHES, Name, Server, Storage, console, examples
from stepsearch.commands.reading import Reader, is_elsewhere, place, recorded
from stepsearch.errors import StepsearchError

app = typer.Typer()


@app.command()
def status(
    context: typer.Context,
    name: Annotated[str | None, typer.Argument(help="the name of a search")] = None,
    storage: Storage = SEARCHES,
    address: Server = None,
) -> None:
    """Show where a search stands; without a name, all of them."""
    reader: Reader = context.obj
    if is_elsewhere(address):
        return reader.remote(address).status(name, storage)
    from stepsearch.search.closing import show_report
    from stepsearch.search.folder import names
    from stepsearch.search.result import SearchResult

    found = [name] if name else names(place(storage))
    for each in found:
        try:
            show_report(SearchResult.read(recorded(each, storage)), console)
        except StepsearchError as error:
            if name:
                raise
            console.print(f"search {each} cannot be read: {error}", soft_wrap=True)
    if not found:
        console.print(f"no searches in {storage}; `python run_search.py` runs the default one")


@app.command(epilog=examples("export my-search", "export my-search --trial 3 --out my-bundle"))
def export(
    context: typer.Context,
    name: Name,
    trial: Annotated[
        int | None, typer.Option(metavar="N", help="its number; without it, the winner")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="new; without it, NAME-bundle")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="even tuned times that do worse than untuned")
    ] = False,
    storage: Storage = SEARCHES,
    address: Server = None,
) -> None:
    """Write a trial as a bundle that plain PyTorch and diffusers use."""
    reader: Reader = context.obj
    out = out or Path(f"{name}-bundle")
    if is_elsewhere(address):
        with console.status("the head writes the bundle"):
            reader.remote(address).export(name, storage, trial, out, force=force)
    else:
        from stepsearch.search.result import SearchResult

        SearchResult.read(reader.find(name, storage)).export(out, trial, force=force)
    console.print(f"wrote {out}", soft_wrap=True)


@app.command()
def ui(
    context: typer.Context,
    name: Name,
    port: Annotated[int, typer.Option(metavar="PORT", min=1, max=65535)] = 5000,
    storage: Storage = SEARCHES,
    address: Server = None,
) -> None:
    """Open the MLflow UI on the store of a search; of one on a cluster, say where."""
    reader: Reader = context.obj
    if is_elsewhere(address):
        return reader.remote(address).ui(name, storage)
    import subprocess

    from stepsearch.search.folder import SearchFolder
    from stepsearch.tracking import ui_command

    config = recorded(name, storage)
    command = ui_command(config.tracking, config.home, port=port)
    page = SearchFolder.find(config.storage, name).page
    table = page.read_text() if page.exists() else ""
    console.print(f"open http://127.0.0.1:{port}/{table} (Ctrl-C ends it)", soft_wrap=True)
    raise typer.Exit(subprocess.run(command, check=False).returncode)


@app.command(hidden=True)
def answer(
    context: typer.Context,
    what: str,
    name: str,
    storage: Storage,
    to: Annotated[str, typer.Option()],
    trial: Annotated[int | None, typer.Option()] = None,
    force: Annotated[bool, typer.Option("--force")] = False,
) -> None:
    """On the head of a cluster: what `status`, `ui` or `export` of another machine asks for."""
    from stepsearch.search import answers
    from stepsearch.search.result import SearchResult

    reader: Reader = context.obj
    match what:
        case "status":
            answers.status(SearchResult.read(recorded(name, storage)), console, to)
        case "ui":
            answers.ui(recorded(name, storage), console)
        case "export":
            answers.export(SearchResult.read(reader.find(name, storage)), trial, force=force)


@app.command()
def doctor(
    address: Annotated[
        str, typer.Option(metavar="ADDRESS", help="local, auto, or a Ray cluster's address")
    ] = "local",
    tracking: Annotated[
        str | None,
        typer.Option(metavar="URI", help="the tracking.uri of a search", show_default=False),
    ] = None,
    storage: Storage = SEARCHES,
) -> None:
    """Check this environment, each node of the cluster, the storage and MLflow.

    One line for each finding; the exit code is 1 if something is to be mended.
    """
    from stepsearch.config import parse
    from stepsearch.search.doctor import examine, show_findings
    from stepsearch.tracking import TrackingConfig

    with console.status("looking around"):
        named = parse(TrackingConfig, {"uri": tracking})
        findings = examine(address, place(storage), named)
    show_findings(findings, console)
    if not all(finding.ok for finding in findings):
        raise typer.Exit(1)
