"""Random search in plain processes: no library, no early stopping, nothing to learn from.

The processes are forked when torch, the data and the judge's classifier are in memory.
"""

from __future__ import annotations

import math
import multiprocessing
import random
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from benchmarks.peers.task import Task
from stepsearch.errors import Diverged


class Dice:
    """Answers a search space with the values given, and at random where there are none."""

    def __init__(self, rng: random.Random, given: Mapping[str, float]) -> None:
        self._rng, self._given = rng, given

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        if name in self._given:
            return self._given[name]
        if log:
            return math.exp(self._rng.uniform(math.log(low), math.log(high)))
        return self._rng.uniform(low, high)

    def suggest_int(
        self, name: str, low: int, high: int, *, step: int = 1, log: bool = False
    ) -> int:
        return int(self._given.get(name, self._rng.randrange(low, high + 1, step)))

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        return self._given.get(name, self._rng.choice(choices))


def train_one(numbered: tuple[int, dict[str, Any]], task: Task) -> None:
    """One trial, to its end."""
    number, proposed = numbered
    with suppress(Diverged):
        task.train(number, proposed, lambda metrics: True)


def search(task: Task) -> None:
    task.prepare()
    rng, fixed = random.Random(task.seed), task.fixed()
    given = [*fixed, *({} for _ in range(task.trials - len(fixed)))]
    proposals = [task.suggest(Dice(rng, values)) for values in given]
    with multiprocessing.get_context("fork").Pool(task.lanes) as pool:
        pool.map(partial(train_one, task=task), enumerate(proposals), chunksize=1)


if __name__ == "__main__":
    search(Task.read(sys.argv[1]))
