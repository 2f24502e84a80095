"""Eight recordings that fit on a page, and searches over them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from search_spaces import SpeedSpace
from stepsearch.config import merge, parse
from stepsearch.search.config import SearchConfig
from stepsearch.simulation.curves import Curves, Recording
from stepsearch.study import Objective
from trainers import trainer

MILESTONES = (250, 500, 750, 1000)

# A report takes 1 s of training for each 250 images, and 0.5 s of evaluation.
TABLE = """
trial  label         role      tau   k   lam   fd at each milestone    off_manifold at the end
0      uniform       baseline  1.0   1   0.5   8.0  6.0  5.0  4.0      0.10
1      SpeeD_(paper) paper     0.7   5   0.6   7.0  5.0  4.0  3.0      0.10
2      late          proposal  0.5   2   0.6   9.0  7.0  3.5  2.0      0.11
3      early         proposal  0.6   8   0.7   6.0  5.5  5.0  4.5      0.09
4      poor          proposal  0.9   3   0.55  9.5  9.0  8.0  7.0      0.10
5      static        proposal  0.45  9   0.75  5.0  3.0  2.0  1.0      0.50
"""
REPEATS = """
trial  of  seed   fd at each milestone    off_manifold at the end
6      0   1      8.0  6.0  5.0  4.4      0.10
7      2   1      9.0  7.0  3.5  2.4      0.11
"""


def _rows(table: str) -> list[list[str]]:
    return [line.split() for line in table.strip().splitlines()[1:]]


def _reports(fd: list[str], off_manifold: str) -> dict[int, dict[str, float]]:
    seconds = {"train_cpu_s": 1.0, "evaluation_cpu_s": 0.5}
    return {
        at: {"fd": float(value), "off_manifold": float(off_manifold), **seconds}
        for at, value in zip(MILESTONES, fd, strict=True)
    }


@pytest.fixture(scope="session")
def curves() -> Curves:
    """The two tables above."""
    originals = {
        int(number): Recording(
            number=int(number),
            label=label.replace("_", " "),
            role=role,
            params={"tau": float(tau), "k": float(k), "lam": float(lam)},
            reports=_reports(fd, off),
        )
        for number, label, role, tau, k, lam, *fd, off in _rows(TABLE)
    }
    repeats = [
        Recording(
            number=int(number),
            label=f"{originals[int(of)].label}, seed {seed}",
            role="repeat",
            params=originals[int(of)].params,
            reports=_reports(fd, off),
            repeats=int(of),
            seed=int(seed),
        )
        for number, of, seed, *fd, off in _rows(REPEATS)
    ]
    return Curves((Objective("fd"),), (*originals.values(), *repeats))


SEARCH: dict[str, Any] = {
    "name": "simulated",
    "objectives": [{"name": "fd"}],
    "guards": {"off_manifold": 0.02},
    "budget": {"trials": 6, "images": 1000, "reports": 4},
    "optuna_sampler": {"kind": "random"},
    "trial_scheduler": {"kind": "fifo"},
    "finalists": {"count": 0},
}


@pytest.fixture(scope="session")
def search() -> Callable[..., SearchConfig]:
    """search(**changes) over six trials of 1000 images, nothing stopped early."""

    def make(**changes: Any) -> SearchConfig:
        whole = {"space": SpeedSpace(), "guards": SEARCH["guards"], "trainer": trainer()}
        whole |= {key: changes[key] for key in whole if key in changes}
        return parse(SearchConfig, merge(SEARCH, changes) | whole)

    return make
