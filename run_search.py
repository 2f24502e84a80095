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

if TYPE_CHECKING:
    from stepsearch.config import Place
    from stepsearch.search.config import SearchConfig
    from stepsearch.search.remote import Remote
    from stepsearch.search.result import SearchResult

DEFAULT = Path(__file__).parent / "search_spaces" / "speed_digits.yaml"
CURVES = Path(__file__).parent / "benchmarks" / "curves" / "speed_digits.csv.gz"
SEARCHES = "searches"
USER_ERROR, INTERRUPTED = 2, 130
CODE = ("run_search", "search_spaces", "trainers", "stepsearch")
"""What a search needs on a cluster."""


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


@app.command(
    epilog=_examples(
        "submit my_search.yaml --address http://HEAD:8265",
        "submit my_search.yaml --set storage=/data/searches",
    )
)
def submit(
    file: File = DEFAULT,
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

    data = _read(file, set_)
    config = _parse(data)
    if str(config.storage) != str(data.get("storage")).rstrip("/"):
        raise UserError(
            "storage must be a bucket or the whole path of a folder that all nodes see, got "
            f"{str(data.get('storage', SEARCHES))!r}"
        )
    _remote(address).submit(config)


@app.command(epilog=_examples("cancel my-search", "cancel my-search --address http://HEAD:8265"))
def cancel(name: Name, storage: Storage = SEARCHES, address: Server = None) -> None:
    """Stop a running search as Ctrl-C does: every trial saves a checkpoint."""
    from stepsearch.search.cancel import cancel
    from stepsearch.search.folder import SearchFolder

    with console.status("every trial saves a checkpoint"):
        if _is_elsewhere(address):
            _remote(address).cancel(name)
        else:
            cancel(SearchFolder.find(_place(storage), name))
    again = "submit FILE.yaml" if _is_elsewhere(address) else f"resume {name}"
    console.print(f"search {name} has stopped; `{again}` goes on with it", soft_wrap=True)


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
    address: Server = None,
) -> None:
    """Show where a search stands; without a name, all of them."""
    if _is_elsewhere(address):
        return _remote(address).status(name, storage)
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
    address: Server = None,
) -> None:
    """Write a trial as a bundle that plain PyTorch and diffusers use."""
    out = out or Path(f"{name}-bundle")
    if _is_elsewhere(address):
        with console.status("the head writes the bundle"):
            _remote(address).export(name, storage, trial, out)
    else:
        from stepsearch.search.result import SearchResult

        SearchResult.read(find(name, storage)).export(out, trial)
    console.print(f"wrote {out}")


@app.command()
def ui(
    name: Name,
    port: Annotated[int, typer.Option(metavar="PORT", min=1, max=65535)] = 5000,
    storage: Storage = SEARCHES,
    address: Server = None,
) -> None:
    """Open the MLflow UI on the store of a search; of one on a cluster, say where."""
    if _is_elsewhere(address):
        return _remote(address).ui(name, storage)
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
    what: str,
    name: str,
    storage: Storage,
    to: Annotated[str, typer.Option()],
    trial: Annotated[int | None, typer.Option()] = None,
) -> None:
    """On the head of a cluster: what `status`, `ui` or `export` of another machine asks for."""
    from stepsearch.search import answers
    from stepsearch.search.result import SearchResult

    match what:
        case "status":
            answers.status(SearchResult.read(recorded(name, storage)), console, to)
        case "ui":
            answers.ui(recorded(name, storage), console)
        case "export":
            answers.export(SearchResult.read(find(name, storage)), trial)


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
        findings = examine(address, _place(storage), named)
    show_findings(findings, console)
    if not all(finding.ok for finding in findings):
        raise typer.Exit(1)


strategies = typer.Typer(
    help="Every timestep strategy there is; what a noise schedule means for them.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
app.add_typer(strategies, name="strategies")
Picture = Annotated[
    Path | None, typer.Option(metavar="FILE.png", help="draw it there too", show_default=False)
]
Noise = Annotated[str, typer.Option(metavar="NAME", help="a schedule, edm or flow")]


@strategies.command("list")
def list_(out: Picture = None) -> None:
    """List all strategies with their parameters; ! marks what must be given."""
    from stepsearch.search.catalogue import show_list

    show_list(console, out)


@strategies.command(epilog=_examples("strategies areas --schedule cosine --out areas.png"))
def areas(
    schedule: Noise = "linear",
    timesteps: Annotated[int, typer.Option(metavar="T", help="of the process")] = 1000,
    r: Annotated[float, typer.Option(metavar="R", help="tau is where alpha_bar <= 1/R")] = 7.2,
    out: Picture = None,
) -> None:
    """Part a noise schedule in SpeeD's acceleration, deceleration, convergence.

    r = 7.2 is the boundary of the paper's analysis, 143 that of its experiments.
    """
    from stepsearch.search.catalogue import show_areas

    show_areas(console, schedule, timesteps, r, out)


@strategies.command("show")
@app.command(
    epilog=_examples(
        "show speed --set tau=600 --set k=3",
        "show min_snr --noise cosine",
        "show min_snr --noise flow --set noise.shift=3",
        "show p2 --set prediction_type=v_prediction",
        "show speed --set mirror=true --json p_and_w.json",
    )
)
def show(
    strategy: Annotated[str, typer.Argument(help="uniform, speed, p2 ...", show_default=False)],
    noise: Noise = "linear",
    set_: Annotated[
        list[str],
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="a parameter of the strategy, timesteps, noise.KEY, prediction_type, batch_size",
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


@app.command(
    epilog=_examples(
        "stages digits",
        "stages digits --n 4 --out stages.png",
        "stages my_pictures --set size=32 --set device=cuda",
        "stages latents.npy --samples 20000 --json stages.json",
    )
)
def stages(
    dataset: Annotated[
        str,
        typer.Argument(
            metavar="DATASET",
            help="digits, a folder of images or a .npy file",
            show_default=False,
        ),
    ],
    n: Annotated[int, typer.Option("--n", metavar="N", help="stages, 2 to 5")] = 3,
    samples: Annotated[int, typer.Option(metavar="K", help="how many to compare")] = 5000,
    seed: Annotated[int, typer.Option(metavar="S")] = 0,
    kernel: Annotated[str, typer.Option(metavar="NAME", help="vp, ve or edm")] = "vp",
    set_: Annotated[
        list[str],
        typer.Option(
            "--set", metavar="KEY=VALUE", help="a parameter of the method or of the data set"
        ),
    ] = [],  # noqa: B006
    out: Annotated[Path | None, typer.Option(metavar="FILE.png", help="draw them")] = None,
    json: Annotated[Path | None, typer.Option(metavar="FILE", help="write them here too")] = None,
) -> None:
    """Find the boundaries of a multi-stage denoiser's stages.

    By the optimal denoiser of the data set, beside other methods; nothing is trained.
    """
    from stepsearch.search.staged import show_stages

    options = {"n": n, "samples": samples, "seed": seed, "kernel": kernel}
    show_stages(dataset, options, set_, console, out=out, json=json)


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
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a Ctrl-C, from the beginning
    try:
        main()
    except SystemExit as end:
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(end.code if isinstance(end.code, int) else 0)


def load(file: Path, sets: list[str]) -> SearchConfig:
    """The search that a YAML file describes, with `sets` laid over it."""
    return _parse(_read(file, sets))


def recorded(name: str, storage: str | Path) -> SearchConfig:
    """What a search was launched with; its space and trainer are plain data, nothing is loaded."""
    from stepsearch.config import parse
    from stepsearch.search.config import SearchConfig

    return parse(SearchConfig, _recorded(name, storage))


def find(name: str, storage: str | Path) -> SearchConfig:
    """What a search was launched with, ready to be run."""
    return _parse(_recorded(name, storage))


def _read(file: Path, sets: list[str]) -> dict[str, Any]:
    from stepsearch.config import merge
    from stepsearch.search.files import assignments, read_yaml

    return merge(read_yaml(file), assignments(sets))


def _parse(data: dict[str, Any]) -> SearchConfig:
    from stepsearch.config import parse

    return parse(_search_type(), data)


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


def _is_elsewhere(address: str | None) -> bool:
    return address not in (None, "local")


def _remote(address: str | None) -> Remote:
    """The searches on another machine."""
    from stepsearch.search.remote import Remote

    return Remote(address, CODE, console)


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
