"""The table of strategies and the areas of a noise process, as the command line shows them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from pydantic_core import PydanticUndefined
from rich.console import Console
from rich.table import Table

from stepsearch.commands.outputs import written
from stepsearch.commands.shown import process_of
from stepsearch.diffusion.noise import VPConfig
from stepsearch.strategies import (
    DENSITIES,
    STRATEGIES,
    WEIGHTS,
    FloatArray,
    StrategyConfig,
    strategy,
)
from stepsearch.strategies.areas import Areas, areas, change, increment
from stepsearch.terminal import chart

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_BATCH_SIZE = 64
"""At which mirrored draws are shown."""
_DRAWN = ("speed", "speed_released", "speed_v1", *DENSITIES, *WEIGHTS)


def show_list(console: Console, out: Path | None) -> None:
    """Every family with its parameters; a picture of their p and w where `out` names one."""
    if out is not None:
        from stepsearch.strategy_figures import gallery

        title = "linear schedule, T = 1000, batches of 64, loss on epsilon"
        _save(gallery(dict(_curves()), title), out)
    table = Table("strategy", "what it is", "parameters", box=None, pad_edge=False)
    for kind, config in STRATEGIES.items():
        what = (config.__doc__ or "").partition("\n")[0].rstrip(".")
        table.add_row(kind, what, " ".join(_parameters(config)))
    console.print(table)
    _tell(console, out)


def show_areas(
    console: Console, schedule: str, timesteps: int, r: float, out: Path | None
) -> None:
    """The areas of a schedule in numbers and as a chart; as a figure where `out` names one."""
    alpha_bar = process_of(schedule, timesteps).alpha_bar
    found = areas(alpha_bar, r)
    if out is not None:
        _save(_areas_figure(found, alpha_bar, f"{schedule}, T = {timesteps}, r = {r:g}"), out)
    console.print(_areas_table(found, alpha_bar))
    console.print(
        f"peak = {found.peak}: d(1 - abar)/dt is largest · "
        f"tau = {found.tau}: the first t with abar <= 1/{r:g}\n"
    )
    title = "d(1 - abar)/dt (times T)"
    console.print(chart(found.T * change(alpha_bar), title, width=min(console.width, 100)))
    _tell(console, out)


def _parameters(config: type[StrategyConfig]) -> Iterator[str]:
    for name, field in config.model_fields.items():
        if name in ("kind", "stratify"):
            continue
        plain = isinstance(field.default, int | float | str)
        needed = field.default is PydanticUndefined
        yield f"{name}={field.default}" if plain else name + ("!" if needed else "")


def _curves() -> Iterator[tuple[str, tuple[FloatArray, FloatArray]]]:
    alpha_bar = VPConfig().build().alpha_bar
    for kind in dict.fromkeys(_DRAWN):
        if kind not in ("uniform", "table"):
            built = strategy(kind).build(alpha_bar)
            yield kind, (built.marginal(_BATCH_SIZE), built.w / np.median(built.w))


def _areas_table(found: Areas, alpha_bar: FloatArray) -> Table:
    table = Table("area", "t", "share", "alpha_bar", "Psi", box=None, pad_edge=False)
    psi = increment(alpha_bar).psi
    edges = (0, found.peak, found.tau, found.T)
    names = ("acceleration", "deceleration", "convergence")
    for name, share, first, end in zip(names, found.shares, edges, edges[1:], strict=False):
        last = end - 1
        table.add_row(
            name,
            f"{first}..{last}",
            f"{100 * share:.1f} %",
            f"{alpha_bar[first]:.3g} .. {alpha_bar[last]:.3g}",
            f"{psi[first]:.3g} .. {psi[min(last, len(psi) - 1)]:.3g}",
        )
    return table


def _areas_figure(found: Areas, alpha_bar: FloatArray, title: str) -> Figure:
    from stepsearch.strategy_figures import areas_figure

    step = increment(alpha_bar)
    panels = {
        "mean": {"phi²": step.phi**2, "bound": step.phi_bound},
        "variance": {"Psi": step.psi, "bound": step.psi_bound},
        "change": {"d(1 - abar)/dt": change(alpha_bar)},
    }
    return areas_figure(panels, (found.peak, found.tau), title)


def _save(figure: Figure, out: Path) -> None:
    with written("--out", out):
        figure.savefig(out, dpi=110)


def _tell(console: Console, out: Path | None) -> None:
    if out is not None:
        console.print(f"wrote {out}", soft_wrap=True)
