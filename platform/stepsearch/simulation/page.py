"""The page of `simulate`: what early stopping may go by, and what a file's settings cost."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from stepsearch.cluster import fit_lanes
from stepsearch.config import Place
from stepsearch.search.config import SearchConfig, TrialSchedulerConfig
from stepsearch.search.folder import SearchFolder
from stepsearch.search.machine import local_resources
from stepsearch.search.plan import decisions
from stepsearch.search.view import clock
from stepsearch.simulation.audit import RankCorrelation, rank_correlations
from stepsearch.simulation.curves import Curves
from stepsearch.simulation.replay import NEAR, simulate
from stepsearch.simulation.stage import Stage
from stepsearch.simulation.summary import Summary
from stepsearch.study import RandomConfig

YOURS, PLAIN = "your settings", "random, none stopped"


def read_curves(source: str, storage: Place) -> Curves:
    """The curves in a file (.csv, .csv.gz), or those of a search in the storage."""
    if source.endswith((".csv", ".csv.gz")):
        return Curves.read(Path(source))
    return Curves.of_search(SearchFolder.find(storage, source))


def show_simulation(
    config: SearchConfig, curves: Curves, searches: int, console: Console
) -> dict[str, Any]:
    """Simulate `searches` searches, print what they say and return the same as JSON.

    Raises UserError where configuration and curves do not fit together.
    """
    config.check_space()
    lanes = fit_lanes(config.lanes, local_resources()).count
    settings = {YOURS: config, PLAIN: _plain(config)}
    stages = {name: Stage(each, curves, lanes=lanes) for name, each in settings.items()}
    stage = stages[YOURS]
    metrics = [stage.config.primary.name, *(stage.config.guards or {})]
    correlations = {metric: rank_correlations(curves, metric) for metric in metrics}
    found = {name: _repeat(each, searches, console) for name, each in stages.items()}
    console.print(_audit(correlations, stage), _table(found, stage), _limits(found[YOURS], curves))
    return {
        "rank_correlations": [vars(c) for each in correlations.values() for c in each],
        "simulated": {name: summary.as_json() for name, summary in found.items()},
    }


def _plain(config: SearchConfig) -> SearchConfig:
    """The same budget without a searcher that learns and without early stopping."""
    changes = {
        "optuna_sampler": RandomConfig(),
        "trial_scheduler": TrialSchedulerConfig(kind="fifo"),
    }
    return config.model_copy(update=changes)


def _repeat(stage: Stage, searches: int, console: Console) -> Summary:
    with console.status("simulating") as status:
        results = []
        for seed in range(searches):
            status.update(f"simulating search {seed + 1} of {searches}")
            results.append(simulate(stage, seed))
    return Summary.of(stage, results)


def _audit(correlations: dict[str, list[RankCorrelation]], stage: Stage) -> RenderableType:
    """A column a recorded milestone; scissors where the file's trial scheduler decides."""
    shares = stage.curves.shares[:-1]
    count = len(stage.curves.originals)
    title = f"What a report says about the end: rank correlation, {count} configurations"
    table = _titled_table(title, gap=1)
    table.add_column("at this share of the images", no_wrap=True, overflow="ellipsis")
    for share in shares:
        table.add_column(f"{share:.0%}", justify="right", no_wrap=True)
    for metric, row in correlations.items():
        table.add_row(metric, *(f"{c.rho:.2f}".replace("0.", ".") for c in row))
    stopping = _stopping(stage)
    table.add_row("your trials may be stopped", *("✂" if s in stopping else "" for s in shares))
    return Group(table, Text())


def _stopping(stage: Stage) -> set[float]:
    """The recorded shares at which the trial scheduler may stop a trial."""
    config, recorded = stage.config, stage.matched
    decides = decisions(config.budget, config.trial_scheduler)
    return {
        at / stage.curves.budget
        for at, stop in zip(recorded.values(), decides, strict=True)
        if stop
    }


def _table(found: dict[str, Summary], stage: Stage) -> RenderableType:
    searches = found[YOURS].searches
    count = f"{searches} simulated searches" if searches > 1 else "one simulated search"
    table = _titled_table(f"What the settings cost: medians of {count}", gap=2)
    table.add_column("")
    for name in found:
        table.add_column(name, justify="right")
    lanes = f"time on {stage.lanes} lane{'s' * (stage.lanes > 1)}, recorded machine"
    rows: dict[str, Callable[[Summary], str]] = {
        "images, of all trials": lambda s: f"{s.images:,.0f} ({s.share:.0%})",
        lanes: lambda s: clock(s.seconds),
        "winner, above the best recording": lambda s: _percent(s.regret[1]),
        "  the middle half of the searches": lambda s: _span(s.regret),
        f"images to a trial within {NEAR:.0%} of it": lambda s: _images(s.near_images[1]),
        "  searches that had one": lambda s: f"{s.near} of {s.searches}",
    }
    for title, cell in rows.items():
        table.add_row(title, *(cell(summary) for summary in found.values()))
    return Group(table, Text())


def _titled_table(title: str, gap: int) -> Table:
    return Table(
        title=title, title_justify="left", title_style="bold", box=None, padding=(0, gap, 0, 0)
    )


def _percent(value: float) -> str:
    return "no winner" if value == math.inf else f"{value:.1%}"


def _span(regret: tuple[float, float, float]) -> str:
    return f"{_percent(regret[0])} to {_percent(regret[2])}"


def _images(value: float) -> str:
    return "never" if value == math.inf else f"{value:,.0f}"


def _limits(summary: Summary, curves: Curves) -> RenderableType:
    return Text(
        f"Nothing was trained: each proposal is played by the nearest of {len(curves.originals)} "
        f"recorded configurations ({summary.distance:.2f} of the ranges away), one seed each, on "
        "the recorded data set. It compares settings; it does not say what yours will reach.",
        style="dim",
    )
