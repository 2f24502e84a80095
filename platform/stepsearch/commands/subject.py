"""The commands about timesteps themselves: strategies, noise schedules and stages."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stepsearch.commands.options import console, examples

app = typer.Typer()
strategies = typer.Typer(
    help="Every timestep strategy there is; what a noise schedule means for them.",
    no_args_is_help=True,
)
app.add_typer(strategies, name="strategies")

Picture = Annotated[
    Path | None, typer.Option(metavar="FILE.png", help="draw it there too", show_default=False)
]
Noise = Annotated[str, typer.Option(metavar="NAME", help="a schedule, edm or flow")]


@strategies.command("list")
def list_(out: Picture = None) -> None:
    """List all strategies with their parameters; ! marks what must be given."""
    from stepsearch.commands.catalogue import show_list

    show_list(console, out)


@strategies.command(epilog=examples("strategies areas --schedule cosine --out areas.png"))
def areas(
    schedule: Noise = "linear",
    timesteps: Annotated[int, typer.Option(metavar="T", help="of the process")] = 1000,
    r: Annotated[float, typer.Option(metavar="R", help="tau is where alpha_bar <= 1/R")] = 7.2,
    out: Picture = None,
) -> None:
    """Part a noise schedule in SpeeD's acceleration, deceleration, convergence.

    r = 7.2 is the boundary of the paper's analysis, 143 that of its experiments.
    """
    from stepsearch.commands.catalogue import show_areas

    show_areas(console, schedule, timesteps, r, out)


@strategies.command("show")
@app.command(
    epilog=examples(
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
    from stepsearch.commands.shown import tables
    from stepsearch.search.files import write_json
    from stepsearch.terminal import strategy_chart

    p, w = tables(strategy, noise, set_)
    if json is None:
        console.print(strategy_chart(p, w, width=min(console.width, 100)))
    else:
        write_json(json, {"p": p.tolist(), "w": w.tolist()})


@app.command(
    epilog=examples(
        "stages digits",
        "stages digits --n 4 --out stages.png",
        "stages my_pictures --set size=32 --set device=cuda",
        "stages latents.npy --samples 20000 --json stages.json",
        "stages /data/pictures --set size=64 --address auto",
    )
)
def stages(
    dataset: Annotated[
        str,
        typer.Argument(
            metavar="DATASET",
            help="digits, the path or address of images, or a .npy file",
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
    address: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="shard the data over a Ray cluster: local, auto or host:port",
            show_default=False,
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(metavar="FILE.png", help="draw them")] = None,
    json: Annotated[Path | None, typer.Option(metavar="FILE", help="write them here too")] = None,
) -> None:
    """Find the boundaries of a multi-stage denoiser's stages.

    By the optimal denoiser of the data set, beside other methods; nothing is trained.
    """
    from stepsearch.commands.staged import show_stages

    options = {"n": n, "samples": samples, "seed": seed, "kernel": kernel}
    show_stages(dataset, options, set_, console, address=address, out=out, json=json)
