"""What the head of a cluster answers when another machine asks for a search; see remote.py."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console

from stepsearch import cluster
from stepsearch.search import parcel
from stepsearch.search.closing import show_report
from stepsearch.search.config import SearchConfig
from stepsearch.search.folder import SearchFolder
from stepsearch.search.result import SearchResult


def status(result: SearchResult, console: Console, to: str) -> None:
    """The report, with the commands that reach the search by its job server `to`."""
    show_report(result, console, to)


def ui(config: SearchConfig, console: Console) -> None:
    """Where its trials are: the page of a server, or what to type for another store."""
    page = SearchFolder.find(config.storage, config.name).page
    table = page.read_text() if page.exists() else ""
    if config.tracking.is_server:
        says = f"open {config.tracking.uri}/{table}"
    else:
        says = (
            f"its store is on the cluster: type `ui {config.name} --storage {config.storage}` "
            f"there, forward the port, and open http://127.0.0.1:5000/{table}"
        )
    console.print(says, soft_wrap=True)


def export(result: SearchResult, trial: int | None, *, force: bool) -> None:
    """The bundle of a trial, as a parcel."""
    with cluster.connect("auto"):
        logs = cluster.log_folder()
    with TemporaryDirectory() as folder:
        parcel.offer(result.export(Path(folder) / "bundle", trial, force=force), logs)
