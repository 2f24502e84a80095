"""The dispatcher: one small actor between Ray Tune's trials and the lanes that train them.

The driver offers a trial, a lane takes it, trains it and reports, and Ray Tune's actor of the
trial asks for one result after another. The dispatcher holds a report until Tune has decided on
it, so a trial that is stopped early trains not one step too many, and the next starts at once.

It also knows what Tune cannot: the trial of a lane that was lost goes to the lane that asks first,
until its retries are spent, and what the lost lane's workers still say is not heard.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable

from stepsearch.errors import StepsearchError
from stepsearch.search.job import Group, Job, Metrics, Result, result_of
from stepsearch.search.jobs import Jobs

DIED = "its Ray Train worker died"


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
        self._metric, self._lanes_left, self._keep = metric, lanes, lanes
        self._jobs = Jobs(retries)
        self._without_actor: set[int] = set()
        self._groups: dict[int, str] = {}  # lane: the incarnation that asks for trials
        self._gone: set[Group] = set()
        self._nodes: dict[int, set[str]] = {}  # lane: where its workers are
        self._draining: set[str] = set()
        self._claims: dict[tuple[Group, int], bytes | None] = {}
        self._asked = False  # a lane has asked for a trial
        self._begun = False  # a trial has trained
        self._over = False  # no trial will begin any more
        self._closed = False
        self._full: str | None = None
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
        if position > job.decided:
            job.decided, job.heard = position, time.monotonic()
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
            self._without_actor.add(number)
            self._jobs.offer(number, Job(budget, sealed))
            await self._wake()

    async def pause(self) -> None:
        """Ask every trial to save a checkpoint and leave its lane; nothing new is started."""
        self._jobs.pause()
        await self._end()

    async def full(self) -> str | None:
        """Why the trials were paused, if the storage takes no more."""
        return self._full

    async def vacate(self, nodes: Iterable[str]) -> None:
        """These nodes are about to go: trials there save a checkpoint and go on elsewhere."""
        self._draining = set(nodes)
        for lane in self._nodes:
            if self._is_draining(lane):
                self._jobs.move(lane)
        await self._wake()

    async def drop(self, lane: int, reason: str) -> bool:
        """A lane's worker group is lost, and its trial goes to the lane that asks first.

        Whether that group had come as far as to ask for a trial.
        """
        incarnation = self._groups.pop(lane, None)
        if incarnation is None:
            return False
        self._gone.add((lane, incarnation))
        self._jobs.drop(lane, reason)
        await self._wake()
        return True

    async def lose(self, reason: str) -> None:
        """A lane is gone for good; without any, every trial that waits for one fails."""
        self._lanes_left -= 1
        if not self._lanes_left:
            self._jobs.fail_all(reason)
            await self._end()

    async def close(self) -> None:
        """Send every lane home as soon as it asks for its next trial."""
        self._closed = True
        self._jobs.stop_all()
        await self._end()

    async def keep(self, lanes: int) -> None:
        """Send lanes home as they ask for their next trials, until no more than these are left."""
        if lanes != self._keep:
            self._keep = lanes
            await self._wake()

    async def closed(self) -> bool:
        """Whether every lane is sent home for good."""
        return self._closed

    async def ready(self) -> None:
        """Return when a lane asks for its first trial, or when none will."""
        await self._until(lambda: self._asked or self._over)

    async def begun(self) -> bool:
        """Wait for the first step of a trial; False when there will be none."""
        await self._until(lambda: self._begun or self._over)
        return self._begun

    async def progress(self) -> dict[int, int]:
        """`images_seen` of every trial that is on a lane now."""
        return self._jobs.progress()

    async def silent(self, seconds: float) -> list[int]:
        """The lanes whose trial gave no sign of life for so long."""
        return self._jobs.silent(seconds)

    # --- a lane's side: every worker of the lane calls, rank 0 speaks for all ----------------

    async def next_trial(self, group: Group, index: int, node: str) -> bytes | None:
        """The `index`-th trial of this incarnation of the lane's worker group; None: go home.

        Raises StepsearchError on a node that is about to go: Ray Train starts the group elsewhere.
        """
        await self._welcome(group, node)
        claim = (group, index)
        await self._until(lambda: claim in self._claims or self._answers(group))
        if claim not in self._claims:
            self._claims[claim] = self._next(group)
            self._claims.pop((group, index - 2), None)  # all workers have heard it
        return self._claims[claim]

    async def tick(self, group: Group, number: int, images_seen: int) -> bool:
        """How far a trial is; False: save a checkpoint and leave."""
        job = await self._heard(group, number, images_seen)
        return job.verdict("tick", images_seen)

    async def report(
        self, group: Group, number: int, metrics: Metrics | None, images_seen: int
    ) -> bool:
        """Hand over a milestone's metrics (None from ranks above 0); False: leave.

        A metric that is not finite ends the trial as diverged.
        """
        job = await self._heard(group, number, images_seen)
        if metrics is not None and job.position(images_seen) is None and not job.over:
            job.publish(result_of(metrics, self._metric, images_seen, job.budget))
            await self._wake()
        await self._until(
            lambda: job.stopped or job.over or job.group != group or job.let_go(images_seen)
        )
        job = await self._heard(group, number, images_seen)
        return job.verdict("report", images_seen)

    async def leave(
        self, group: Group, number: int, outcome: str | None, reason: str | None
    ) -> None:
        """The trial has left its lane: without an outcome when it was told to, else why.

        The outcome `full` (the storage takes no more) pauses the search: other trials would fail
        as well. The first worker that says so speaks for its worker group.
        """
        if self._jobs[number].group != group or self._jobs.on(group[0]) != number:
            return
        if outcome == "full":
            self._full, outcome = reason, None
            self._jobs.pause()
            await self._end()
        self._jobs.leave(group[0], outcome, reason or "unknown")
        await self._wake()

    # --- inside ------------------------------------------------------------------------------

    async def _welcome(self, group: Group, node: str) -> None:
        """Note who asks for trials on a lane, and from where."""
        lane, incarnation = group
        if group in self._gone:
            return
        if self._groups.get(lane, incarnation) != incarnation:
            await self.drop(lane, DIED)
        if lane not in self._groups:
            self._nodes[lane] = set()
        self._groups[lane] = incarnation
        self._nodes[lane].add(node)
        self._asked = True
        await self._wake()

    def _answers(self, group: Group) -> bool:
        """Whether a group that asks for a trial need not wait any longer."""
        return bool(self._jobs.waiting) or self._goes_home(group) or self._is_draining(group[0])

    def _goes_home(self, group: Group) -> bool:
        return self._closed or group in self._gone or len(self._groups) > self._keep

    def _next(self, group: Group) -> bytes | None:
        lane, _ = group
        if self._goes_home(group):
            self._gone.add(group)
            self._groups.pop(lane, None)
            return None
        if self._is_draining(lane):
            raise StepsearchError("the node is about to go")
        return self._jobs.start(group)

    def _is_draining(self, lane: int) -> bool:
        return not self._draining.isdisjoint(self._nodes[lane])

    async def _heard(self, group: Group, number: int, images_seen: int) -> Job:
        """The trial that a lane's worker speaks of; raises StepsearchError if it has lost it."""
        job = self._jobs[number]
        if job.group != group:
            raise StepsearchError(f"trial {number} has gone to another lane")
        job.images_seen = max(job.images_seen, images_seen)
        job.heard = time.monotonic()
        if not self._begun:
            self._begun = True
            await self._wake()
        return job

    async def _end(self) -> None:
        self._over = True
        await self._wake()

    async def _wake(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def _until(self, condition: Callable[[], object]) -> None:
        async with self._changed:
            await self._changed.wait_for(lambda: bool(condition()))
