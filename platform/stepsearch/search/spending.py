"""What a running search spends, and whether a further trial fits into its budgets."""

from __future__ import annotations

import heapq
import statistics
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Protocol

from stepsearch.cluster import LaneShape
from stepsearch.search.amounts import Amounts, Budget, amount, in_words, limits, used
from stepsearch.search.config import BudgetConfig, PricesConfig
from stepsearch.search.leaderboard import PROTECTED, REPEAT
from stepsearch.search.ledger import Ledger

_WRITTEN_EVERY_S = 2.0
_CAUTION = 1.1
"""By how much longer than their mean trials may be before the finalists' repeats lack it."""


class Held(Protocol):
    """What a lane holds; `lane_trainer.Hold` says it."""

    @property
    def up(self) -> bool: ...

    @property
    def seconds(self) -> float: ...


@dataclass
class _Running:
    """A trial on a lane."""

    role: str
    since: float
    before: float
    """Seconds that it was on a lane under earlier drivers."""
    images_seen: int = 0


@dataclass(frozen=True)
class _Expected:
    """How many seconds a trial takes."""

    trial: float
    """A proposal, which may be stopped early; the mean."""
    whole: float
    """A trial that goes to its end."""

    def of(self, role: str, seconds: float) -> float:
        """What a trial has before it after so many seconds."""
        short = role not in PROTECTED and seconds < self.trial
        return max(0.0, (self.trial if short else self.whole) - seconds)

    @property
    def at_most(self) -> _Expected:
        """Nothing is stopped early, and everything takes somewhat longer."""
        return _Expected(_CAUTION * self.whole, _CAUTION * self.whole)


def until_the_end(
    lanes: int,
    originals: Iterable[float],
    repeats: Iterable[float],
    *,
    early: int,
    late: int,
    whole: float,
) -> float:
    """Seconds until everything has ended, on so many lanes.

    `originals` and `repeats` are trials that have so long to go. Of the repeats to come, which
    take `whole` seconds each, `early` ones (the baseline's) fill free lanes and `late` ones (the
    finalists') begin when the originals have ended.
    """
    ends = [0.0] * max(1, lanes)

    def put(seconds: float, not_before: float = 0.0) -> float:
        end = max(ends[0], not_before) + seconds
        heapq.heapreplace(ends, end)
        return end

    decided = max([put(seconds) for seconds in sorted(originals, reverse=True)], default=0.0)
    for seconds in [*repeats, *[whole] * early]:
        put(seconds)
    for _ in range(late):
        put(whole, decided)
    return max(ends)


def _sum(spent: float, trial: float | None, repeats: float | None) -> str:
    """`1.4 used, a trial takes 0.2, the repeats of the finalists take 0.5`."""
    parts = [f"{spent:.3g} used"]
    parts += [f"a trial takes {trial:.3g}"] if trial is not None else []
    parts += [f"the repeats of the finalists take {repeats:.3g}"] if repeats is not None else []
    return ", ".join(parts)


class Spending:
    """Keeps the ledger while a driver runs, and holds the search to its budgets.

    A further trial fits if, by the length of the trials until now, it and all that is under way
    end within every budget; lanes are paid until then, idle or not. Where repeats are kept back,
    they must fit even if nothing is stopped early. Nothing is known of the lengths before a trial
    runs: the first ones always fit.
    """

    def __init__(
        self,
        path: Path,
        budget: BudgetConfig,
        prices: PricesConfig | None,
        shape: LaneShape,
        holds: Callable[[], Sequence[Held]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.shape = shape
        self._path, self._budget, self._prices = path, budget, prices
        self._limits = limits(budget)
        self._holds, self._clock = holds, clock
        earlier = Ledger.read(path)
        self._ledger = earlier.model_copy(update={"ended": None})
        self._before = earlier.spent
        self._hours = 0.0  # with a lane, until the last look
        self._looked, self._seen = clock(), list[tuple[bool, float]]()
        self._running: dict[int, _Running] = {}
        self._written = 0.0
        self._lock = threading.RLock()

    # --- what happens --------------------------------------------------------------------------

    def began(self, number: int, role: str) -> None:
        """A trial is on a lane, for the first time or again, after the engine died say."""
        with self._lock:
            here, before = self._running.get(number), self._ledger.running.get(number, 0.0)
            before = before if here is None else self._seconds(here)
            self._running[number] = _Running(role, self._clock(), before)

    def progress(self, images_seen: Mapping[int, int]) -> None:
        """How far the trials are that are on a lane."""
        with self._lock:
            for number in images_seen.keys() & self._running.keys():
                self._running[number].images_seen = images_seen[number]

    def ended(self, number: int, outcome: str) -> None:
        """A trial has left its lane; an interrupted one will go on."""
        with self._lock:
            seconds = self._seconds(self._running[number])
            trial = self._running.pop(number)
            ledger, running = self._ledger, {**self._ledger.running, number: seconds}
            update: dict[str, object] = {"running": running}
            if outcome != "interrupted":
                del running[number]
                if trial.role != REPEAT:
                    update["originals"] = ledger.originals.plus(seconds)
                if outcome == "finished":
                    update["whole"] = ledger.whole.plus(seconds)
            self._ledger = ledger.model_copy(update=update)
            self.write()

    def close(self, ended: str | None = None) -> None:
        """Note why the search has ended, if a budget ended it."""
        with self._lock:
            self._ledger = self._ledger.model_copy(update={"ended": ended})
            self.write()

    # --- what is spent -------------------------------------------------------------------------

    @property
    def spent(self) -> Amounts:
        """Until now, by this driver and those before it."""
        with self._lock:
            self._look()
            held = sum(seconds for _, seconds in self._seen)
            now = used(self.shape, self._prices, self._hours, held / 3600)
            return {name: self._before[name] + value for name, value in now.items()}

    def _look(self) -> None:
        """Count the time since the last look in which there was a lane.

        That is all of it if one stayed, else as much as the one that came or left has held.
        """
        now, seen = self._clock(), [(hold.up, hold.seconds) for hold in self._holds()]
        pairs = list(zip_longest(self._seen, seen, fillvalue=(False, 0.0)))
        stayed = any(before[0] and after[0] for before, after in pairs)
        longest = max((after[1] - before[1] for before, after in pairs), default=0.0)
        self._hours += (now - self._looked if stayed else max(0.0, longest)) / 3600
        self._looked, self._seen = now, seen

    @property
    def share(self) -> float:
        """Of the budget that is the nearest to its end; 0 without any."""
        spent = self.spent
        return max((spent[name] / limit for name, limit in self._limits.items()), default=0.0)

    def line(self) -> str:
        """`1.2 of 2 hours · 10.1 of 40 EUR`."""
        return in_words(self.spent, self._budget, self._prices)

    def note(self) -> None:
        """Write it down, every other second at most."""
        if self._clock() - self._written >= _WRITTEN_EVERY_S:
            self.write()

    def write(self) -> None:
        """Write down what is spent until now."""
        with self._lock:
            now = {n: self._seconds(trial) for n, trial in self._running.items()}
            update = {"spent": self.spent, "running": {**self._ledger.running, **now}}
            self._ledger.model_copy(update=update).write(self._path)
            self._written = self._clock()

    # --- what fits -----------------------------------------------------------------------------

    def lacks(self, role: str | None, early: int, late: int) -> str | None:
        """Why a trial of this `role` (None: none) and so many repeats do not fit; None: they do.

        `early` and `late` are as in `until_the_end`.
        """
        with self._lock:
            if not self._limits:
                return None
            spent, lengths = self.spent, self._expected()
            for name, limit in self._limits.items():
                if spent[name] >= limit:
                    return f"the budget of {self._amount(name, limit)} is spent: {spent[name]:.3g}"
            if lengths is None:
                return None
            kept_back = role is not None and early + late > 0
            alone = self._needs(role, 0, 0, lengths)
            total = self._needs(role, early, late, lengths.at_most if kept_back else lengths)
            for name, limit in self._limits.items():
                if spent[name] + total[name] > limit:
                    trial = None if role is None else alone[name]
                    repeats = total[name] - (trial or 0.0) if early + late else None
                    return f"the budget of {self._amount(name, limit)} is nearly spent: " + _sum(
                        spent[name], trial, repeats
                    )
            return None

    def _needs(self, role: str | None, early: int, late: int, lengths: _Expected) -> Amounts:
        """What is used until everything has ended, with a trial of this role and the repeats."""
        originals = [] if role is None else [lengths.of(role, 0.0)]
        repeats: list[float] = []
        for trial in self._running.values():
            left = lengths.of(trial.role, self._seconds(trial))
            (repeats if trial.role == REPEAT else originals).append(left)
        lanes = max(1, sum(hold.up for hold in self._holds()))
        seconds = until_the_end(
            lanes, originals, repeats, early=early, late=late, whole=lengths.whole
        )
        return used(self.shape, self._prices, seconds / 3600, lanes * seconds / 3600)

    def _expected(self) -> _Expected | None:
        """From the trials that have ended, before there are any from those that run."""
        begun = [trial for trial in self._running.values() if trial.images_seen]
        guesses = [
            self._seconds(trial) * self._budget.images / trial.images_seen for trial in begun
        ]
        guess = statistics.fmean(guesses) if guesses else None
        mean, whole = self._ledger.originals.mean, self._ledger.whole.mean
        trial_s = mean or whole or guess
        return None if trial_s is None else _Expected(trial_s, whole or guess or trial_s)

    def _amount(self, name: Budget, value: float) -> str:
        return amount(name, value, self._prices)

    def _seconds(self, trial: _Running) -> float:
        return trial.before + self._clock() - trial.since
