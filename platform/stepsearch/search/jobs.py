"""The trials that Ray Tune runs now: which wait, which lane has which, what becomes of them."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator

from stepsearch.search.job import INTERRUPTED, Group, Job


class Jobs:
    """The dispatcher's state, without its waiting: every method is at once and in memory."""

    def __init__(self, retries: int) -> None:
        self._retries = retries
        self._jobs: dict[int, Job] = {}
        self._on_lane: dict[int, int] = {}  # lane: its trial's number
        self._lost: str | None = None
        self.waiting: deque[int] = deque()
        self.paused = False

    def __getitem__(self, number: int) -> Job:
        return self._jobs[number]

    def __contains__(self, number: int) -> bool:
        return number in self._jobs

    def __iter__(self) -> Iterator[Job]:
        return iter(self._jobs.values())

    def offer(self, number: int, job: Job) -> None:
        self._jobs[number] = job
        self._queue(number)

    def start(self, group: Group) -> bytes:
        """Give the trial that waits longest to a lane."""
        number = self.waiting.popleft()
        self._on_lane[group[0]] = number
        return self._jobs[number].start(group, time.monotonic())

    def on(self, lane: int) -> int | None:
        """The trial on a lane."""
        return self._on_lane.get(lane)

    def drop(self, lane: int, reason: str) -> None:
        """The lane's worker group is lost; its trial waits for another, if it has retries left."""
        number = self._on_lane.pop(lane, None)
        if number is not None:
            self._jobs[number].release()
            self._retry(number, reason)

    def leave(self, lane: int, outcome: str | None, reason: str) -> None:
        """A trial has left its lane: because it was told to (no outcome), or else why.

        `again`: it knows how to do better, which is no failure.
        """
        number = self._on_lane.pop(lane)
        job = self._jobs[number]
        if job.over:
            return
        if outcome == "error":
            self._retry(number, reason)
        elif outcome == "again":
            job.attempts -= 1
            self._retry(number, reason)
        elif outcome == "out_of_memory":
            job.fail(reason, infeasible="memory")
        elif outcome is not None:
            job.publish({"done": True, "outcome": outcome, "reason": reason})
        elif self.paused:
            job.publish(INTERRUPTED)
        elif job.moving:
            job.release()
            self._queue(number, first=True)
        elif not job.stopped:
            self._retry(number, "it returned before its budget was spent")

    def move(self, lane: int) -> None:
        """The trial on a lane shall leave it, to go on elsewhere."""
        if lane in self._on_lane:
            self._jobs[self._on_lane[lane]].moving = True

    def pause(self) -> None:
        """Every trial shall leave its lane; those that wait are interrupted at once."""
        self.paused = True
        while self.waiting:
            self._jobs[self.waiting.popleft()].publish(INTERRUPTED)
        self.stop_all()

    def stop_all(self) -> None:
        for job in self:
            job.stopped = True

    def fail_all(self, reason: str) -> None:
        """There are no lanes any more: whatever waits or comes fails."""
        self._lost = reason
        for job in self:
            if not job.over:
                job.fail(reason)

    def progress(self) -> dict[int, int]:
        """`images_seen` of every trial that is on a lane now."""
        return {number: self._jobs[number].images_seen for number in self._on_lane.values()}

    def silent(self, seconds: float) -> list[int]:
        """The lanes whose trial gave no sign of life for so long, and does not wait for Tune."""
        before = time.monotonic() - seconds
        jobs = {lane: self._jobs[number] for lane, number in self._on_lane.items()}
        return [lane for lane, job in jobs.items() if job.heard < before and not job.undecided]

    def _retry(self, number: int, reason: str) -> None:
        job = self._jobs[number]
        if job.over or (job.stopped and not self.paused):
            return
        job.error = reason
        if self.paused or job.attempts <= self._retries:
            self._queue(number, first=True)
        else:
            job.fail(reason)

    def _queue(self, number: int, first: bool = False) -> None:
        if self.paused:
            self._jobs[number].publish(INTERRUPTED)
        elif self._lost:
            self._jobs[number].fail(self._lost)
        elif first:
            self.waiting.appendleft(number)
        else:
            self.waiting.append(number)
