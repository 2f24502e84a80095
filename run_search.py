"""The front door of stepsearch: launch a search, inspect its trials, export the winner."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

if TYPE_CHECKING:
    from stepsearch.config import Place
    from stepsearch.search.config import SearchConfig
    from stepsearch.search.result import SearchResult

DEFAULT = Path(__file__).parent / "search_spaces" / "speed_digits.yaml"
CURVES = Path(__file__).parent / "benchmarks" / "curves" / "speed_digits.csv.gz"
SEARCHES = "searches"
USER_ERROR, INTERRUPTED = 2, 130


def _examples(*lines: str) -> str:
    """The end of a help page; \\b keeps its lines as they are."""
    return "\b\nexamples:\n" + "\n".join(f"  python run_search.py {line}" for line in lines)


app = typer.Typer(
    help="Find, by real trials, how a diffusion model should use its timesteps.",
    epilog=_examples(
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
console = Console(highlight=False)

File = Annotated[
    Path,
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


@app.callback(invoke_without_command=True)
def _default(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        run(DEFAULT, [], resume=False)


@app.command(
    epilog=_examples(
        "run my_search.yaml",
        "run my_search.yaml --set name=longer",
        "run --set budget.images=96000 --set space.k='[1, 25]'",
        "run my_search.yaml --resume",
    )
)
def run(
    file: File = DEFAULT,
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

    config = _on(address, load(file, set_))
    if resume and has_begun(config):
        _follow(driver.resume, again(config, find(config.name, config.storage)))
    else:
        _follow(driver.launch, config)


@app.command(
    epilog=_examples(
        "resume my-search", "resume my-search --trials 40", "resume my-search --hours 8"
    )
)
def resume(
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

    config = find(name, storage).extended(
        trials, hours=hours, gpu_hours=gpu_hours, cpu_hours=cpu_hours, money=money
    )
    _follow(resume, _on(address, config))


@app.command()
def reconcile(name: Name, storage: Storage = SEARCHES) -> None:
    """Compare the records of a search, and mend what a killed driver left.

    Of each trial: Optuna's study, the history and MLflow. One line for each
    difference; the exit code is 1 if something cannot be mended.
    """
    from stepsearch.search.reconcile import reconcile

    found = reconcile(find(name, storage))
    for difference in found:
        mark = "mended" if difference.mended else "STAYS "
        console.print(f"{mark} {difference}", soft_wrap=True, markup=False)
    if not found:
        console.print("Optuna, the history and MLflow agree on every trial")
    if not all(difference.mended for difference in found):
        raise typer.Exit(1)


@app.command(epilog=_examples("plan my_search.yaml", "plan --set lanes.workers=2"))
def plan(file: File = DEFAULT, set_: Sets = []) -> None:  # noqa: B006
    """Show what a search will try, what it needs and what it costs.

    Checks it like `run`, times a few real steps on this machine and writes nothing.
    """
    from stepsearch.search.plan import show_plan

    show_plan(load(file, set_), console)


@app.command(
    epilog=_examples(
        "simulate my_search.yaml",
        "simulate --set trial_scheduler.reduction=3",
        "simulate my_search.yaml --curves an-earlier-search",
    )
)
def simulate(
    file: File = DEFAULT,
    set_: Sets = [],  # noqa: B006
    curves: Annotated[
        str,
        typer.Option(
            metavar="FILE.csv.gz|NAME",
            help="recorded curves, or a search; without it, SpeeD on digits",
            show_default=False,
        ),
    ] = str(CURVES),
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

    config = load(file, set_)
    found = show_simulation(config, read_curves(curves, config.storage), searches, console)
    if json is not None:
        write_json(json, found)


@app.command()
def status(
    name: Annotated[str | None, typer.Argument(help="the name of a search")] = None,
    storage: Storage = SEARCHES,
) -> None:
    """Show where a search stands; without a name, all of them."""
    from stepsearch.search.closing import show_report
    from stepsearch.search.folder import names
    from stepsearch.search.result import SearchResult

    found = [name] if name else names(_place(storage))
    for each in found:
        show_report(SearchResult.read(recorded(each, storage)), console)
    if not found:
        console.print(f"no searches in {storage}; `python run_search.py` runs the default one")


@app.command(epilog=_examples("export my-search", "export my-search --trial 3 --out my-bundle"))
def export(
    name: Name,
    trial: Annotated[
        int | None, typer.Option(metavar="N", help="its number; without it, the winner")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="new; without it, NAME-bundle")
    ] = None,
    storage: Storage = SEARCHES,
) -> None:
    """Write a trial as a bundle that plain PyTorch and diffusers use."""
    from stepsearch.search.result import SearchResult

    result = SearchResult.read(find(name, storage))
    console.print(f"wrote {result.export(out or Path(f'{name}-bundle'), trial)}")


@app.command()
def ui(
    name: Name,
    port: Annotated[int, typer.Option(metavar="PORT", min=1, max=65535)] = 5000,
    storage: Storage = SEARCHES,
) -> None:
    """Open the MLflow UI on the store of a search."""
    import subprocess

    from stepsearch.search.folder import SearchFolder
    from stepsearch.tracking import ui_command

    config = recorded(name, storage)
    command = ui_command(config.tracking, config.home, port=port)
    page = SearchFolder.find(config.storage, name).page
    table = page.read_text() if page.exists() else ""
    console.print(f"open http://127.0.0.1:{port}/{table} (Ctrl-C ends it)", soft_wrap=True)
    raise typer.Exit(subprocess.run(command, check=False).returncode)


@app.command()
def doctor(
    address: Annotated[
        str, typer.Option(metavar="ADDRESS", help="local, auto, or a Ray cluster's address")
    ] = "local",
    storage: Storage = SEARCHES,
) -> None:
    """Check this environment, each node of the cluster and the storage.

    One line for each finding; the exit code is 1 if something is to be mended.
    """
    from stepsearch.search.doctor import examine, show_findings

    with console.status("looking around"):
        findings = examine(address, _place(storage))
    show_findings(findings, console)
    if not all(finding.ok for finding in findings):
        raise typer.Exit(1)


@app.command(
    epilog=_examples(
        "show speed --set tau=600 --set k=3",
        "show min_snr --noise cosine",
        "show p2 --set prediction_type=v_prediction",
        "show speed --set mirror=true --json p_and_w.json",
    )
)
def show(
    strategy: Annotated[str, typer.Argument(help="uniform, speed, p2 ...", show_default=False)],
    noise: Annotated[str, typer.Option(metavar="NAME", help="the noise schedule")] = "linear",
    set_: Annotated[
        list[str],
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="a parameter of the strategy, timesteps, prediction_type or batch_size",
        ),
    ] = [],  # noqa: B006
    json: Annotated[
        Path | None, typer.Option(metavar="FILE", help="write p and w here instead")
    ] = None,
) -> None:
    """Draw the density p and the weight w of a timestep strategy.

    p is the density of one draw in a batch of batch_size (64); that matters for mirror only.
    """
    from stepsearch.search.files import write_json
    from stepsearch.search.shown import tables
    from stepsearch.terminal import strategy_chart

    p, w = tables(strategy, noise, set_)
    if json is None:
        console.print(strategy_chart(p, w, width=min(console.width, 100)))
    else:
        write_json(json, {"p": p.tolist(), "w": w.tolist()})


def main() -> None:
    """Run the CLI; a user's error is one line and exit code 2, never a traceback."""
    from stepsearch.errors import StepsearchError, UserError

    # For this process, which only draws and records: its threads would slow the lanes down.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    try:
        app()
    except StepsearchError as error:
        errors = Console(stderr=True, highlight=False)
        errors.print(f"error: {error}", soft_wrap=True, markup=False)
        sys.exit(USER_ERROR if isinstance(error, UserError) else 1)


def command() -> None:
    """`main` for a shell, without Python's teardown: after Ray and MLflow that takes seconds."""
    try:
        main()
    except SystemExit as end:
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(end.code if isinstance(end.code, int) else 0)


def load(file: Path, sets: list[str]) -> SearchConfig:
    """The search that a YAML file describes, with `sets` laid over it."""
    from stepsearch.config import merge
    from stepsearch.search.files import assignments, read_yaml

    return _parse(merge(read_yaml(file), assignments(sets)))


def recorded(name: str, storage: str | Path) -> SearchConfig:
    """What a search was launched with; its space and trainer are plain data, nothing is loaded."""
    from stepsearch.config import parse
    from stepsearch.search.config import SearchConfig

    return parse(SearchConfig, _recorded(name, storage))


def find(name: str, storage: str | Path) -> SearchConfig:
    """What a search was launched with, ready to be run."""
    return _parse(_recorded(name, storage))


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


def _on(address: str | None, config: SearchConfig) -> SearchConfig:
    """The search on another cluster."""
    from stepsearch.errors import UserError

    if address == "":
        raise UserError("--address must be local, auto or host:port, got ''")
    return config if address is None else config.model_copy(update={"cluster": address})


def _named(value: Any) -> Any:
    """`space: speed` for `space: {kind: speed}`."""
    return {"kind": value} if isinstance(value, str) else value


def _recorded(name: str, storage: str | Path) -> dict[str, Any]:
    from stepsearch.search.folder import SearchFolder

    place = _place(storage)
    folder = SearchFolder.find(place, name)
    return folder.read_config() | {"storage": place}  # it may have been moved


def _place(storage: str | Path) -> Place:
    from stepsearch.bucket import S3Url
    from stepsearch.errors import UserError

    if "://" not in str(storage):
        return Path(storage).absolute()
    try:
        return S3Url.parse(str(storage))
    except ValueError as error:
        raise UserError(str(error)) from None


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


if __name__ == "__main__":
    command()
