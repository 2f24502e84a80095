"""The plan of a search: what it will try, what that needs and costs, before anything is spent."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import yaml
from rich.console import Console, Group, RenderableType
from rich.filesize import decimal
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from stepsearch.cluster import LaneShape, connect, fit_lanes, resources
from stepsearch.errors import Diverged, OutOfMemory, UserError
from stepsearch.search.amounts import check_budget
from stepsearch.search.beginning import Beginner, beginning
from stepsearch.search.board import describe
from stepsearch.search.config import BudgetConfig, SearchConfig, TrialSchedulerConfig
from stepsearch.search.folder import SearchFolder
from stepsearch.search.forecast import budgets, estimate
from stepsearch.search.machine import free_bytes, local_resources
from stepsearch.search.trial import Cost
from stepsearch.search.view import clock
from stepsearch.search.warm_start import Earlier
from stepsearch.study.spaces import run_fixed

_NARROWEST_CHART = 38


def decisions(budget: BudgetConfig, scheduler: TrialSchedulerConfig) -> list[bool]:
    """At which milestones the trial scheduler may stop a trial; never at the last one.

    ASHA's rungs are at first, first * reduction, first * reduction^2 ... images. A report counts
    for the highest rung that it reaches and that the trial has not been on before.
    """
    milestones, first = budget.milestones(), scheduler.first_rung(budget)
    if scheduler.kind != "asha":
        return [scheduler.kind == "median" and m >= first for m in milestones[:-1]] + [False]
    rungs, rung = [], float(first)
    while rung <= milestones[-1]:
        rungs.append(rung)
        rung *= scheduler.reduction
    decides = []
    for images_seen in milestones[:-1]:
        reached = [rung for rung in rungs if rung <= images_seen]
        decides.append(bool(reached))
        if reached:
            rungs.remove(reached[-1])
    return [*decides, False]


def show_plan(config: SearchConfig, console: Console) -> None:
    """Check a search and print what it would do; a probe of some seconds is all that it runs.

    Writes nothing to the storage. Raises UserError, as a run does, if space, trainer and data do
    not fit together or the lanes not into the cluster.
    """
    config.check_space()
    config.check_trainer()
    config, here = config.resolved(), local_resources()
    earlier = Earlier.of(config)
    begins = beginning(config, earlier)[: config.budget.trials]
    has = here if config.cluster == "local" else _joined(config.cluster)
    shape = fit_lanes(config.lanes, has)
    check_budget(config.budget, config.prices, shape)
    gpu = shape.gpus > 0 and here.get("GPU", 0) > 0
    console.print(_configuration(config, console.width))
    told = f"; {earlier}" if earlier and earlier.told else ""
    console.print(_trials(config, begins, told))
    console.print(_strategies(config, begins, console.width), _rungs(config))
    console.print(_lanes(config, shape, has))
    with console.status("timing a few steps, images and scores"):
        cost = _probe(config.trainer, gpu)
    console.print(_costs(config, shape, cost, "GPU" if gpu else "CPU"))


def _joined(address: str) -> dict[str, float]:
    with connect(address):
        return resources()


def _probe(trainer: Any, gpu: bool) -> Cost:
    try:
        cost: Cost = trainer.probe(gpu=gpu)
    except Diverged as error:
        raise UserError(f"trainer must not diverge in its first steps: {error}") from None
    except OutOfMemory as error:
        raise UserError(f"trainer must fit into this machine's memory: {error}") from None
    return cost


def _section(title: str, *content: RenderableType) -> RenderableType:
    return Group(Text(title, style="bold"), Padding(Group(*content), (0, 0, 1, 2), expand=False))


def _grid(rows: Sequence[Sequence[str]], *, numbers: bool = False) -> RenderableType:
    """Rows in columns; the first column on the right if it holds numbers."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(justify="right" if numbers else "left", no_wrap=True)
    for row in rows:
        grid.add_row(*map(Text, row))
    return grid


def _configuration(config: SearchConfig, width: int) -> RenderableType:
    """All values, the defaults included, as a search file would have them."""
    data = config.model_dump(mode="json", exclude_none=True)
    text = yaml.safe_dump(
        data, sort_keys=False, allow_unicode=True, default_flow_style=None, width=width - 30
    )
    notes = []
    folder = SearchFolder.of(config.storage, config.name)
    folder.refresh()
    if folder.path.exists():
        note = f"{config.name!r} exists: `resume {config.name}` goes on with it"
        notes = [Text(f"{note}, `run` wants a new name", style="yellow")]
    return _section("configuration", Text(text.rstrip()), *notes)


def _trials(config: SearchConfig, fixed: list[Beginner], told: str) -> RenderableType:
    """In the order in which they come; `told` is what Optuna knows before."""
    total, finalists = config.budget.trials, config.finalists
    rows = [[str(i), point.label, describe(point.params)] for i, point in enumerate(fixed)]
    rows[0][2] += "  (the baseline)"
    if proposals := total - len(fixed):
        by = f"by {config.optuna_sampler.kind}{told}"
        rows.append([_numbers(len(fixed), proposals), _count(proposals, "proposal"), by])
    if repeats := finalists.repeats:
        best = "the best one" if finalists.count == 1 else f"the best {finalists.count}"
        if finalists.by is not None:
            best = f"the best one of each {finalists.by}, {finalists.count} in all,"
        why = f"{best} and the baseline, on {finalists.seeds} seeds in the end"
        rows.append([_numbers(total, repeats), _count(repeats, "repeat"), why])
    return _section("trials", _grid(rows, numbers=True))


def _numbers(first: int, count: int) -> str:
    return f"{first}-{first + count - 1}" if count > 1 else str(first)


def _strategies(config: SearchConfig, fixed: list[Beginner], width: int) -> RenderableType:
    """The fixed points, drawn side by side."""
    facts = config.trainer.facts()
    columns = max(1, min(len(fixed), (width - 2) // _NARROWEST_CHART))
    drawn = []
    for i, point in enumerate(fixed):
        _, proposed = run_fixed(
            lambda trial: config.space.suggest(trial, facts), point.params, point.label
        )
        chart = config.trainer_for(proposed).chart((width - 2) // columns - 2)
        drawn.append(Text(f"trial {i}: {point.label}\n{chart}"))
    grid = Table.grid(padding=(0, 2))
    for first in range(0, len(drawn), columns):
        if first:
            grid.add_row()
        grid.add_row(*drawn[first : first + columns])
    return _section("fixed points", grid)


def _rungs(config: SearchConfig) -> RenderableType:
    scheduler, milestones = config.trial_scheduler, config.budget.milestones()
    stops = {
        "asha": f"asha lets the better 1/{scheduler.reduction:g} go on",
        "median": "median stops what is worse than the others' median, "
        f"from {scheduler.min_trials} trials on",
        "fifo": "",
    }[scheduler.kind]
    decides = decisions(config.budget, scheduler)
    rows = [
        [f"{images_seen:,}", stops if stop else "all go on"]
        for images_seen, stop in zip(milestones, decides, strict=True)
    ]
    rows[-1][1] = "the end"
    by = f"by {config.primary.name}, {config.primary.direction}d"
    return _section(f"rungs, in images seen ({by})", _grid(rows, numbers=True))


def _lanes(config: SearchConfig, shape: LaneShape, has: dict[str, float]) -> RenderableType:
    workers = shape.count * shape.workers
    where = "this machine" if config.cluster == "local" else f"the cluster at {config.cluster}"
    rows = [
        ["lanes", f"{shape.count} x {_count(shape.workers, 'worker')}, a trial each"],
        ["CPUs", f"{workers * shape.cpus:g}; {where} has {has.get('CPU', 0):g}"],
        ["GPUs", f"{workers * shape.gpus:g}; {where} has {has.get('GPU', 0):g}"],
        ["folder", f"{config.folder}"],
    ]
    return _section("resources", _grid(rows))


def _costs(config: SearchConfig, shape: LaneShape, cost: Cost, unit: str) -> RenderableType:
    whole = estimate(config, shape, cost, config.budget.trials)
    milestones = config.budget.milestones()
    steps = math.ceil(milestones[-1] / cost.batch_size)
    rows = [
        ["a step", _duration(cost.step_s), f"{cost.batch_size} images"],
        ["an evaluation", _duration(cost.evaluation_s), "drawing and judging images"],
        *([["besides", _duration(cost.once_s), "once a trial"]] if cost.once_s else []),
        ["preparing", _duration(cost.prepare_s), "once, if nothing is cached"],
        ["a whole trial", clock(whole.trial_s), f"{steps} steps, {len(milestones)} evaluations"],
        [f"{unit} time", clock(whole.work_s), "all trials, none stopped early"],
        ["wall time", clock(whole.wall_s), f"{_count(shape.count, 'lane')}, none stopped early"],
        [
            "disk",
            decimal(whole.disk_bytes),
            f"of checkpoints; {decimal(free_bytes(config.folder))} are free",
        ],
        *budgets(config, shape, cost),
    ]
    where = "this machine's GPU" if unit == "GPU" else "one thread of this machine"
    return _section(f"estimate, timed on {where}", _grid(rows))


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def _duration(seconds: float) -> str:
    if seconds < 1:
        return f"{1000 * seconds:.3g} ms"
    return f"{seconds:.1f} s" if seconds < 10 else clock(seconds)
