"""The front door of stepsearch: launch a search, inspect its trials, export the winner."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

if TYPE_CHECKING:
    from stepsearch.search.config import SearchConfig
    from stepsearch.search.result import SearchResult

DEFAULT = Path(__file__).parent / "search_spaces" / "speed_digits.yaml"
USER_ERROR, INTERRUPTED = 2, 130

app = typer.Typer(
    help="Find, by real trials, how a diffusion model should use its timesteps.",
    epilog="Without a command: `run` on the embedded default, SpeeD on handwritten digits.",
    no_args_is_help=False,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
console = Console(highlight=False)

File = Annotated[Path, typer.Argument(help="a search as YAML", metavar="FILE.yaml")]
Name = Annotated[str, typer.Argument(help="a search, by its name", metavar="NAME")]
Sets = Annotated[
    list[str],
    typer.Option("--set", metavar="KEY=VALUE", help="change a key: --set trainer.training.lr=1e-3"),
]
Storage = Annotated[Path, typer.Option(help="the folder that holds all searches")]
SEARCHES = Path("searches")


@app.callback(invoke_without_command=True)
def _default(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        run(DEFAULT, [])


@app.command()
def run(file: File = DEFAULT, set_: Sets = []) -> None:  # noqa: B006 (typer reads it)
    """Launch a search and follow it to its leaderboard."""
    from stepsearch.search.driver import search

    _follow(search, load(file, set_))


@app.command()
def resume(name: Name, storage: Storage = SEARCHES) -> None:
    """Go on with an interrupted search."""
    from stepsearch.search.driver import resume

    _follow(resume, find(name, storage))


@app.command()
def plan(file: File = DEFAULT, set_: Sets = []) -> None:  # noqa: B006
    """Check a search and show what it will try, what it needs and how long it will take."""
    from stepsearch.search.plan import show_plan

    show_plan(load(file, set_), console)


@app.command()
def status(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]")] = None,
    storage: Storage = SEARCHES,
) -> None:
    """Where a search stands; without a name, all of them."""
    from stepsearch.search.folder import names

    found = [name] if name else names(storage)
    for each in found:
        _print_result(_read(each, storage))
    if not found:
        console.print(f"no searches in {storage}; `python run_search.py` runs the default one")


@app.command()
def export(
    name: Name,
    trial: Annotated[int | None, typer.Option(help="its number; without it, the winner")] = None,
    out: Annotated[Path | None, typer.Option(help="the new folder of the bundle")] = None,
    storage: Storage = SEARCHES,
) -> None:
    """Write a trial as a bundle that plain PyTorch and diffusers use."""
    result = _read(name, storage)
    console.print(f"wrote {result.export(out or Path(f'{name}-bundle'), trial)}")


@app.command()
def ui(
    name: Name,
    port: Annotated[int, typer.Option(min=1, max=65535)] = 5000,
    storage: Storage = SEARCHES,
) -> None:
    """Open the MLflow UI on the store of a search."""
    import subprocess

    from stepsearch.tracking import ui_command

    config = find(name, storage)
    console.print(f"MLflow on http://127.0.0.1:{port} (Ctrl-C ends it)")
    command = ui_command(config.tracking, config.storage, port=port)
    raise typer.Exit(subprocess.run(command, check=False).returncode)


@app.command()
def doctor(
    address: Annotated[str, typer.Option(help="local, auto, or a Ray cluster's address")] = "local",
    storage: Storage = SEARCHES,
) -> None:
    """Check this environment, each node of the cluster and the store."""
    from stepsearch.search.doctor import examine

    findings = examine(address, storage.absolute())
    for finding in findings:
        mark = "[green]ok  [/green]" if finding.ok else "[red]MEND[/red]"
        console.print(f"{mark} {finding.what}: {finding.says}", soft_wrap=True)
    if not all(finding.ok for finding in findings):
        raise typer.Exit(1)


@app.command()
def show(
    strategy: Annotated[str, typer.Argument(metavar="STRATEGY")],
    noise: Annotated[str, typer.Option(metavar="NAME", help="the noise schedule")] = "linear",
    set_: Sets = [],  # noqa: B006
    json: Annotated[Path | None, typer.Option(metavar="FILE", help="write p and w here")] = None,
) -> None:
    """Draw the density p and the weight w of a timestep strategy, or write them as JSON."""
    from stepsearch.config import parse
    from stepsearch.diffusion.noise import NoiseConfig
    from stepsearch.strategies import strategy as strategy_config

    values = assignments(set_)
    shared = {key: values.pop(key) for key in ("timesteps",) if key in values}
    process = parse(NoiseConfig, {"schedule": noise, **shared}, where="noise").build()
    prediction = values.pop("prediction_type", "epsilon")
    built = strategy_config(strategy, **values).build(process.alpha_bar, prediction)
    if json is None:
        from stepsearch.terminal import strategy_chart

        console.print(strategy_chart(built.p, built.w, width=min(console.width, 100)))
    else:
        write_json(json, {"p": built.p.tolist(), "w": built.w.tolist()})


def main() -> None:
    """Run the CLI; a user's error is one line and exit code 2, never a traceback."""
    from stepsearch.errors import UserError

    try:
        app()
    except UserError as error:
        Console(stderr=True, highlight=False).print(f"error: {error}", soft_wrap=True, markup=False)
        sys.exit(USER_ERROR)


def load(file: Path, sets: list[str]) -> SearchConfig:
    """The search that a YAML file describes, with `sets` laid over it."""
    import yaml

    from stepsearch.config import merge
    from stepsearch.errors import UserError

    try:
        data = yaml.safe_load(file.read_text())
    except OSError as error:
        raise UserError(f"FILE must be a file that can be read, got {str(file)!r}: "
                        f"{error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"FILE must be YAML, got {str(file)!r}: {reason}") from None
    if not isinstance(data, dict):
        raise UserError(f"FILE must hold a mapping, got {type(data).__name__} in {str(file)!r}")
    return _parse(merge(data, assignments(sets)))


def find(name: str, storage: Path) -> SearchConfig:
    """The resolved configuration of a search that was launched before."""
    from stepsearch.search.folder import SearchFolder

    folder = SearchFolder.find(storage.absolute(), name)
    return _parse(folder.read_config() | {"storage": storage})  # it may have been moved


def assignments(sets: list[str]) -> dict[str, Any]:
    """`a.b=1` as {"a": {"b": 1}}; values are YAML."""
    import yaml

    from stepsearch.config import merge
    from stepsearch.errors import UserError

    data: dict[str, Any] = {}
    for text in sets:
        path, sign, value = text.partition("=")
        if not sign or not all(path.split(".")):
            raise UserError(f"--set must be KEY=VALUE, got {text!r}")
        nested: Any = yaml.safe_load(value)
        for key in reversed(path.split(".")):
            nested = {key: nested}
        data = merge(data, nested)
    return data


def _parse(data: dict[str, Any]) -> SearchConfig:
    from pydantic import BeforeValidator

    from search_spaces import AnySpace
    from stepsearch.config import parse
    from stepsearch.search.config import SearchConfig
    from trainers import AnyTrainer

    class Search(SearchConfig):
        space: Annotated[AnySpace, BeforeValidator(_named)]
        trainer: Annotated[AnyTrainer, BeforeValidator(_named)] = AnyTrainer()

    return parse(Search, data)


def _named(value: Any) -> Any:
    """`space: speed` for `space: {kind: speed}`."""
    return {"kind": value} if isinstance(value, str) else value


def _read(name: str, storage: Path) -> SearchResult:
    from stepsearch.search.result import SearchResult

    return SearchResult.read(find(name, storage))


def _follow(launch: Any, config: SearchConfig) -> None:
    """Run a search under the live view and print how it ended."""
    from stepsearch.search.closing import report
    from stepsearch.search.view import live_view

    result = launch(config, live_view(console))
    console.print(report(result))
    if result.interrupted:
        raise typer.Exit(INTERRUPTED)


def _print_result(result: SearchResult) -> None:
    from stepsearch.search.closing import report

    console.print(report(result))


if __name__ == "__main__":
    main()
