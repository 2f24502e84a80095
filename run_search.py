"""The front door of stepsearch: launch a search, inspect its trials, export the winner."""

from __future__ import annotations

import logging
import os
import signal
import sys
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from stepsearch.commands import data, launching, looking, preparing, subject
from stepsearch.commands.options import examples
from stepsearch.commands.reading import Reader, recorded

if TYPE_CHECKING:
    from stepsearch.search.config import SearchConfig

__all__ = ["CURVES", "DEFAULT", "command", "find", "load", "main", "recorded"]

DEFAULT = Path(__file__).parent / "search_spaces" / "speed_digits.yaml"
CURVES = Path(__file__).parent / "benchmarks" / "curves" / "speed_digits.csv.gz"
USER_ERROR = 2
CODE = ("run_search", "search_spaces", "trainers", "stepsearch")
"""What a search needs on a cluster."""


@cache
def _search_type() -> type[SearchConfig]:
    """A search over one of the spaces, with one of the trainers."""
    from pydantic import BeforeValidator

    from search_spaces import AnySpace
    from stepsearch.search.config import SearchConfig
    from trainers import AnyTrainer, DenoisingConfig

    class Search(SearchConfig):
        space: Annotated[AnySpace, BeforeValidator(_named)]
        trainer: Annotated[AnyTrainer, BeforeValidator(_named)] = DenoisingConfig()

    return Search


def _named(value: Any) -> Any:
    """`space: speed` for `space: {kind: speed}`."""
    return {"kind": value} if isinstance(value, str) else value


reader = Reader(_search_type, DEFAULT, CURVES, CODE)
load, find = reader.load, reader.find

app = typer.Typer(
    help="Find, by real trials, how a diffusion model should use its timesteps.",
    epilog=examples(
        "                      SpeeD on handwritten digits",
        "plan my_search.yaml   what a search will try and cost",
        "run my_search.yaml    launch it",
        "ui my-search          its trials, in MLflow",
        "export my-search      its winner, to use elsewhere",
    ),
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for part in (launching, preparing, looking, subject, data):
    app.add_typer(part.app)


@app.callback(invoke_without_command=True)
def _default(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        launching.run(context)


def main() -> None:
    """Run the CLI; a user's error is one line and exit code 2, never a traceback."""
    from stepsearch.errors import StepsearchError, UserError

    # For this process, which only draws and records: its threads would slow the lanes down.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    try:
        app(obj=reader)
    except StepsearchError as error:
        errors = Console(stderr=True, highlight=False, markup=False, emoji=False)
        errors.print(f"error: {error}", soft_wrap=True)
        sys.exit(USER_ERROR if isinstance(error, UserError) else 1)


def command() -> None:
    """`main` for a shell, without Python's teardown: after Ray and MLflow that takes seconds."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a Ctrl-C, from the beginning
    try:
        main()
    except SystemExit as end:
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(end.code if isinstance(end.code, int) else 0)


if __name__ == "__main__":
    command()
