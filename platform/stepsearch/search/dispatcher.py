"""The dispatcher: one small actor between Ray Tune's trials and the lanes that train them.

The driver offers a trial, a lane takes it, trains it and reports, and Ray Tune's actor of the
trial asks for one result after another. The dispatcher holds a report until Tune has decided on
it, so a trial that is stopped early trains not one step too many, and the next starts at once.

It also knows what Tune cannot: a lane whose worker group was restarted asks again while its trial
is unfinished, and gets the same trial back, until its retries are spent.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

Metrics = dict[str, float]
Result = dict[str, Any]


@dataclass
class _Job:
    """An offered trial, as the dispatcher follows it."""

    budget: int
    sealed: bytes  # the Trial, pickled: only a lane's worker can open it
    attempts: int = 0
    images_seen: int = 0
    results: list[Result] = field(default_factory=list)
    decided: int = 0  # Tune lets the trial go on after results[:decided]
    stopped: bool = False
    over: bool = False
    error: str | None = None
    verdicts: dict[tuple[str, int], bool] = field(default_factory=dict)

    def verdict(self, question: str, images_seen: int) -> bool:
        """May the trial go on? Answered once, so that all workers of a lane hear the same."""
        return self.verdicts.setdefault((question, images_seen), not (self.stopped or self.over))

    def position(self, images_seen: int) -> int | None:
        """Where the report of this milestone stands among the results."""
        seen = [result.get("images_seen") for result in self.results]
        return seen.index(images_seen) if images_seen in seen else None

    def publish(self, result: Result) -> None:
        self.results.append(result)
        self.over = result["done"]
        if result.get("outcome") == "error":
            self.error = result["reason"]


class Dispatcher:
    """Hands trials to lanes and results to Ray Tune; an asyncio actor.

    One condition wakes whoever waits; every method is idempotent, because its caller may die
    before it hears the answer and its successor asks again.

    No result is given out while a trial has no actor yet. A trial that ended then would leave its
    own actor to the other one; Ray Tune would abandon the one that is starting, never end it, and
    start another for each trial that follows.
    """

    def __init__(self, retries: int, lanes: int, metric: str) -> None:
        """`metric` is what Ray Tune's trial scheduler reads."""
        self._retries, self._metric = retries, metric
        self._lanes_left = self._keep = lanes
        self._here: set[int] = set()  # lanes that have asked for a trial, and were not sent home
        self._jobs: dict[int, _Job] = {}
        self._waiting: deque[int] = deque()
        self._without_actor: set[int] = set()
        self._claims: dict[tuple[int, str, int], bytes | None] = {}
        self._on_lane: dict[int, tuple[str, int]] = {}  # lane: (incarnation, trial's number)
        self._asked = False  # a lane has asked for a trial
        self._begun = False  # a trial has trained
        self._closed = False
        self._lost: str | None = None
        self._paused = False
        self._changed = asyncio.Condition()

    # --- Ray Tune's side ---------------------------------------------------------------------

    async def position(self, number: int) -> int:
        """How many of a trial's results Tune has decided on; what an actor asks first."""
        self._without_actor.discard(number)
        await self._wake()
        return self._jobs[number].decided

    async def result(self, number: int, position: int) -> Result:
        """Result `position` of a trial; to ask for it says that Tune has let the trial go on.

        Its `outcome` is there on the last result only: finished, diverged, error or interrupted.
        """
        job = self._jobs[number]
        job.decided = max(job.decided, position)
        await self._wake()
        await self._until(lambda: len(job.results) > position and not self._without_actor)
        return job.results[position]

    async def stop(self, number: int) -> None:
        """Tune ends a trial at its last report."""
        self._without_actor.discard(number)
        if number in self._jobs:
            self._jobs[number].stopped = True
            self._jobs[number].sealed = b""
        await self._wake()

    # --- the driver's side -------------------------------------------------------------------

    async def offer(self, number: int, budget: int, sealed: bytes) -> None:
        """Queue a trial that Ray Tune is about to start: its lane need not wait for that."""
        if number not in self._jobs:
            self._jobs[number] = _Job(budget, sealed)
            self._without_actor.add(number)
            self._queue(number)
            await self._wake()

    async def pause(self) -> None:
        """Ask every trial to save a checkpoint and leave its lane; nothing new is started."""
        self._paused = True
        while self._waiting:
            self._jobs[self._waiting.popleft()].publish(_INTERRUPTED)
        for job in self._jobs.values():
            job.stopped = True
        await self._wake()

    async def lose(self, reason: str) -> None:
        """A lane is gone for good; without any, every trial that waits for one fails."""
        self._lanes_left -= 1
        if not self._lanes_left:
            self._lost = reason
            for job in self._jobs.values():
                if not job.over:
                    job.publish({"done": True, "outcome": "error", "reason": reason})
            await self._wake()

    async def close(self) -> None:
        """Send every lane home as soon as it asks for its next trial."""
        self._closed = True
        for job in self._jobs.values():
            job.stopped = True
        await self._wake()

    async def keep(self, lanes: int) -> None:
        """Send lanes home as they ask for their next trials, until no more than these are left."""
        if lanes != self._keep:
            self._keep = lanes
            await self._wake()

    async def over(self) -> bool:
        """Whether every lane is sent home for good."""
        return self._closed

    async def error(self, number: int) -> str | None:
        """What last went wrong with a trial, in one line."""
        return self._jobs[number].error

    async def ready(self) -> None:
        """Return when a lane asks for its first trial, or when none will."""
        await self._until(lambda: self._asked or self._paused or self._closed or self._lost)

    async def begun(self) -> bool:
        """Wait for the first step of a trial; False when there will be none."""
        await self._until(lambda: self._begun or self._paused or self._closed or self._lost)
        return self._begun

    async def progress(self) -> dict[int, int]:
        """`images_seen` of every trial that is on a lane now."""
        numbers = [number for _, number in self._on_lane.values()]
        return {number: self._jobs[number].images_seen for number in numbers}

    # --- a lane's side: every worker of the lane calls, rank 0 speaks for all ----------------

    async def next_trial(self, lane: int, incarnation: str, index: int) -> bytes | None:
        """The `index`-th trial of this incarnation of the lane's worker group; None: go home."""
        claim = (lane, incarnation, index)
        if not self._asked:
            self._asked = True
            await self._wake()
        self._recover(lane, incarnation)
        if claim not in self._claims:
            self._here.add(lane)
        await self._until(lambda: claim in self._claims or self._waiting or self._leaves())
        if claim not in self._claims:
            self._claims[claim] = self._next(lane, incarnation)
            self._claims.pop((lane, incarnation, index - 2), None)  # all workers have heard it
        return self._claims[claim]

    async def tick(self, number: int, images_seen: int) -> bool:
        """How far a trial is; False: save a checkpoint and leave."""
        job = self._jobs[number]
        await self._moved(job, images_seen)
        return job.verdict("tick", images_seen)

    async def report(self, number: int, metrics: Metrics | None, images_seen: int) -> bool:
        """Hand over a milestone's metrics (None from ranks above 0); False: leave.

        A metric that is not finite ends the trial as diverged.
        """
        job = self._jobs[number]
        await self._moved(job, images_seen)
        if metrics is not None and job.position(images_seen) is None and not job.over:
            job.publish(_result(metrics, self._metric, images_seen, job.budget))
            await self._wake()
        await self._until(lambda: job.stopped or job.over or self._let_go(job, images_seen))
        return job.verdict("report", images_seen)

    async def leave(
        self, lane: int, incarnation: str, number: int, outcome: str | None, reason: str | None
    ) -> None:
        """The trial has left its lane: without an outcome when it was told to, else why.

        The first worker that says so speaks for its worker group.
        """
        if self._on_lane.get(lane) != (incarnation, number):
            return
        del self._on_lane[lane]
        job = self._jobs[number]
        if job.over:
            return
        if outcome == "error":
            self._retry(number, reason or "unknown")
        elif outcome is not None:
            job.publish({"done": True, "outcome": outcome, "reason": reason})
        elif self._paused:
            job.publish(_INTERRUPTED)
        elif not job.stopped:
            self._retry(number, "it returned before its budget was spent")
        await self._wake()

    # --- inside ------------------------------------------------------------------------------

    def _leaves(self) -> bool:
        """Whether the lane that asks is to go home."""
        return self._closed or len(self._here) > self._keep

    def _next(self, lane: int, incarnation: str) -> bytes | None:
        if not self._leaves():
            return self._start(lane, incarnation)
        self._here.discard(lane)
        return None

    def _start(self, lane: int, incarnation: str) -> bytes:
        number = self._waiting.popleft()
        self._jobs[number].attempts += 1
        self._on_lane[lane] = (incarnation, number)
        return self._jobs[number].sealed

    async def _moved(self, job: _Job, images_seen: int) -> None:
        job.images_seen = max(job.images_seen, images_seen)
        if not self._begun:
            self._begun = True
            await self._wake()

    def _recover(self, lane: int, incarnation: str) -> None:
        """Take back the trial that a lost worker group of this lane was training."""
        before, number = self._on_lane.get(lane, (incarnation, -1))
        if before != incarnation:
            del self._on_lane[lane]
            if not self._jobs[number].over:
                self._retry(number, "its Ray Train worker died")

    def _retry(self, number: int, reason: str) -> None:
        job = self._jobs[number]
        if job.stopped:
            return
        job.error = reason
        if job.attempts <= self._retries:
            self._queue(number, first=True)
        else:
            job.publish({"done": True, "outcome": "error", "reason": reason})

    def _queue(self, number: int, first: bool = False) -> None:
        if self._paused:
            self._jobs[number].publish(_INTERRUPTED)
        elif self._lost:
            self._jobs[number].publish({"done": True, "outcome": "error", "reason": self._lost})
        elif first:
            self._waiting.appendleft(number)
        else:
            self._waiting.append(number)

    @staticmethod
    def _let_go(job: _Job, images_seen: int) -> bool:
        position = job.position(images_seen)
        return position is not None and job.decided > position

    async def _wake(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def _until(self, condition: Callable[[], object]) -> None:
        async with self._changed:
            await self._changed.wait_for(lambda: bool(condition()))


_INTERRUPTED: Result = {"done": True, "outcome": "interrupted"}


def _result(metrics: Metrics, metric: str, images_seen: int, budget: int) -> Result:
    """A milestone as Ray Tune gets it: it keeps statistics of every number that it finds."""
    odd = [f"{name} is {value}" for name, value in metrics.items() if not math.isfinite(value)]
    if odd:
        return {"done": True, "outcome": "diverged", "reason": ", ".join(odd)}
    result: Result = {"images_seen": images_seen, "metrics": tuple(metrics.items()), "done": False}
    if metric in metrics:
        result[metric] = metrics[metric]
    if images_seen >= budget:
        result |= {"done": True, "outcome": "finished"}
    return result
