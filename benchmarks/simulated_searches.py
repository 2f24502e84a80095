"""Choose the defaults of a search by simulation: searcher x trial scheduler x fixed points.

    python benchmarks/simulated_searches.py [--searches 50] [--set KEY=VALUE ...]
    python benchmarks/simulated_searches.py --decisions 10000 [--searcher tpe]

Every line of a table is many simulated searches over recorded curves that differ in their seed.
They are compared at equal cost: how much worse than the best recorded configuration the best
finished trial is when 4, 8, 16 and 24 trials' worth of images have been seen. With --decisions one
search of so many trials is simulated instead, to see what a decision costs the driver as the study
grows. The last line is a JSON object.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import psutil  # type: ignore[import-untyped]

from run_search import CURVES, DEFAULT, load
from search_spaces import SpeedSpace
from stepsearch.search.config import SearchConfig
from stepsearch.search.trial import TrainerFacts
from stepsearch.simulation.curves import Curves
from stepsearch.simulation.replay import NEAR, Simulated, simulate
from stepsearch.simulation.stage import Stage

LANES = 2
TRIALS = 40
"""Trials of one simulated search: where some are stopped, the images pay for more of them."""
BUDGETS = (4, 8, 16, 24)
"""In images of whole trials."""
MARKS = (200, 500, 1000, 2000, 5000, 10_000)
"""Trials after which a decision is timed, over the last 200."""

SEARCHERS = {
    "tpe": "{kind: tpe, n_startup_trials: 4}",
    "tpe, 10 random": "{kind: tpe, n_startup_trials: 10}",
    "gp": "{kind: gp, n_startup_trials: 4}",
    "cmaes": "{kind: cmaes}",
    "qmc": "{kind: qmc}",
    "random": "{kind: random}",
}
FIFO = "fifo"
WHOLE = f"{FIFO}, 2 from 53%"
"""Nothing stopped, and no report that is not needed."""
REPORTS = ((0.0625, 6), (0.25, 5), (0.4375, 4), (0.53125, 6), (0.53125, 2), (0.625, 3))
"""Where the first report is, and how many there are: all at recorded milestones."""
FIXED = ("baseline and paper", "baseline", "none")

Cell = tuple[str, str, str]
"""Searcher, trial scheduler, fixed points."""


class SomeFixedPoints(SpeedSpace):
    """SpeeD's space with the first few of its fixed points."""

    points: int

    def fixed(self, facts: TrainerFacts) -> list[Any]:
        return super().fixed(facts)[: self.points]


def schedulers() -> dict[str, list[str]]:
    """Name: the settings that make it."""
    found = {}
    for first, reports in REPORTS:
        at = f"{reports} from {first:.0%}"
        sets = [f"budget.first_report={first}", f"budget.reports={reports}"]
        sets.append("trial_scheduler.grace=0")  # the first report may end a trial
        found[f"{FIFO}, {at}"] = ["trial_scheduler.kind=fifo", *sets]
        found[f"median, {at}"] = ["trial_scheduler.kind=median", *sets]
        for reduction in (2, 3, 4):
            asha = ["trial_scheduler.kind=asha", f"trial_scheduler.reduction={reduction}"]
            found[f"asha 1/{reduction}, {at}"] = [*asha, *sets]
    return found


def cells(scheduler: str) -> dict[str, list[Cell]]:
    """The tables: each varies one thing, or two that may depend on each other."""
    return {
        "searcher, nothing stopped": [(name, WHOLE, FIXED[0]) for name in SEARCHERS],
        f"searcher, {scheduler}": [(name, scheduler, FIXED[0]) for name in SEARCHERS],
        "trial scheduler, tpe": [("tpe", name, FIXED[0]) for name in schedulers()],
        "trial scheduler, random": [("random", name, FIXED[0]) for name in schedulers()],
        "fixed points": [
            (name, rule, fixed)
            for name, rule, fixed in product(("tpe", "random"), (WHOLE, scheduler), FIXED)
        ],
    }


@dataclass(frozen=True)
class Asked:
    """What all cells have in common."""

    curves: Path
    sets: tuple[str, ...]
    trials: int


def configuration(cell: Cell, asked: Asked) -> SearchConfig:
    searcher, scheduler, fixed = cell
    sets = [f"optuna_sampler={SEARCHERS[searcher]}", *schedulers()[scheduler], *asked.sets]
    config = load(DEFAULT, [*sets, f"budget.trials={asked.trials}", "finalists.count=0"])
    points = len(FIXED) - 1 - FIXED.index(fixed)
    space = SomeFixedPoints(**config.space.model_dump(), points=points)
    return config.model_copy(update={"space": space})


@lru_cache(maxsize=1)
def _curves(path: Path) -> Curves:
    return Curves.read(path)


def run(asked: Asked, cell: Cell, seeds: Sequence[int]) -> list[Simulated]:
    """Simulated searches of one cell; called in a worker process."""
    stage = Stage(configuration(cell, asked), _curves(asked.curves), lanes=LANES)
    return [simulate(stage, seed) for seed in seeds]


def row(cell: Cell, results: Sequence[Simulated], images: int) -> dict[str, Any]:
    """A line of a table; null where half of the searches had no trial to show."""
    after = {str(n): [r.regret_after(n * images) for r in results] for n in BUDGETS}
    near = [math.inf if r.near is None else r.near.images / images for r in results]
    whole = [sum(r.outcomes.values()) * images for r in results]
    return {
        "searcher": cell[0],
        "trial_scheduler": cell[1],
        "fixed_points": cell[2],
        "regret_after": {n: _quartiles(regrets) for n, regrets in after.items()},
        "images_to_near": _quartiles(near),
        "seconds_to_near": _quartiles(
            [math.inf if r.near is None else r.near.seconds for r in results]
        ),
        "cost_of_a_trial": round(sum(r.images for r in results) / sum(whole), 3),
        "lane_s_a_trial": round(LANES * sum(r.seconds for r in results) * images / sum(whole), 2),
    }


def _quartiles(values: Sequence[float | None]) -> list[float | None]:
    known = [math.inf if value is None else value for value in values]
    quartiles = np.quantile(known, (0.25, 0.5, 0.75), method="nearest")
    return [round(float(q), 4) if math.isfinite(q) else None for q in quartiles]


def show(title: str, rows: Sequence[dict[str, Any]]) -> None:
    heads = "".join(f"{f'{n} trials':>19s}" for n in BUDGETS)
    print(f"\n{title}")
    print(
        f"{'':42s}{heads}{f'within {NEAR:.0%}':>19s}{'seconds':>9s}{'a trial':>9s}{'seconds':>9s}"
    )
    for each in rows:
        name = f"{each['searcher']}, {each['trial_scheduler']}"
        if each["fixed_points"] != FIXED[0]:
            name += f", {each['fixed_points']}"
        regrets = "".join(_cell(each["regret_after"][str(n)], 100, "%") for n in BUDGETS)
        near = _cell(each["images_to_near"], 1, "")
        seconds = each["seconds_to_near"][1]
        print(
            f"{name:42s}{regrets}{near}{'-' if seconds is None else f'{seconds:.0f}':>9s}"
            f"{each['cost_of_a_trial']:9.2f}{each['lane_s_a_trial']:9.1f}"
        )


def _cell(quartiles: Sequence[float | None], scale: float, unit: str) -> str:
    low, middle, high = ("-" if q is None else f"{scale * q:.1f}" for q in quartiles)
    return f"{f'{middle}{unit} [{low},{high}]':>19s}"


def compare(asked: Asked, searches: int, scheduler: str) -> dict[str, Any]:
    """All tables, each one printed as soon as its searches are over."""
    tables: dict[str, list[Cell]] = cells(scheduler)
    rows: dict[str, Any] = {}
    images = load(DEFAULT, []).budget.images
    halves = [range(0, searches, 2), range(1, searches, 2)]
    print(f"{searches} simulated searches a line: median [quartiles] of the regret, in images of")
    print(f"whole trials; images and seconds on {LANES} lanes until a trial was nearly the best;")
    print("images of a trial, 1 = whole, and its seconds on a lane, its evaluations included")
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        wanted = dict.fromkeys(cell for table in tables.values() for cell in table)
        jobs = {cell: [pool.submit(run, asked, cell, half) for half in halves] for cell in wanted}
        for title, table in tables.items():
            found = {cell: [r for part in jobs[cell] for r in part.result()] for cell in table}
            rows[title] = [row(cell, results, images) for cell, results in found.items()]
            show(title, rows[title])
    return {"searches": searches, "tables": rows}


NOTES: list[float] = []
"""CPU-seconds of this process at each proposal."""
GROWTH: list[dict[str, float]] = []


class Watched(SpeedSpace):
    """SpeeD's space, which notes when each proposal was asked for, and the memory then."""

    def suggest(self, trial: Any, facts: TrainerFacts) -> dict[str, Any]:
        NOTES.append(time.process_time())
        at = len(NOTES) - 1
        if at in MARKS:
            each_ms = (NOTES[at] - NOTES[at - MARKS[0]]) / MARKS[0] * 1e3
            rss = psutil.Process().memory_info().rss / 2**20
            GROWTH.append({"trials": at, "decision_ms": round(each_ms, 2), "rss_mib": round(rss)})
            print(f"{at:8,}{each_ms:16.2f}{rss:14.0f}", flush=True)
        return super().suggest(trial, facts)


def decide(asked: Asked, searcher: str, scheduler: str) -> dict[str, Any]:
    """One search of many trials; recordings stand in again and again."""
    print(f"{'trials':>8s}{'ms a decision':>16s}{'MiB resident':>14s}")
    config = configuration((searcher, scheduler, FIXED[0]), asked)
    watched = Watched(**config.space.model_dump(exclude={"points"}))
    config = config.model_copy(update={"space": watched})
    simulate(Stage(config, Curves.read(asked.curves), lanes=LANES, reuse=True), seed=0)
    return {"searcher": searcher, "trial_scheduler": scheduler, "decisions": GROWTH}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--curves", type=Path, default=CURVES, metavar="FILE.csv.gz")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--searches", type=int, default=50, metavar="N")
    parser.add_argument("--trials", type=int, default=TRIALS, metavar="N", help="of each search")
    parser.add_argument("--scheduler", choices=schedulers(), default="asha 1/3, 3 from 62%")
    parser.add_argument("--decisions", type=int, metavar="TRIALS", help="one search of so many")
    parser.add_argument("--searcher", choices=SEARCHERS, default="random")
    given = parser.parse_args()
    trials = given.decisions or given.trials
    asked = Asked(given.curves.absolute(), tuple(given.set), trials)
    if given.decisions:
        found = decide(asked, given.searcher, given.scheduler)
    else:
        found = compare(asked, given.searches, given.scheduler)
    print(json.dumps({"benchmark": "simulated_searches"} | found))


if __name__ == "__main__":
    main()
