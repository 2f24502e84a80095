"""The records that wait for delivery: in order within a run, the runs in turn."""

from __future__ import annotations

import os
import threading
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice, takewhile
from pathlib import Path

from stepsearch.tracking.records import Metrics, Record, Run, Start, is_file
from stepsearch.tracking.spool import Spool

MAX_MERGED = 50  # records in one batch: bounds one request to about 1250 values


@dataclass(frozen=True)
class Unsent:
    """How many records MLflow does not have."""

    waiting: int = 0
    """On the disk, for the next process that opens the spool."""
    lost: int = 0
    """Refused by MLflow, or on no disk."""


class Backlog:
    """A thread-safe queue with one consumer; a record leaves it only when it is delivered.

    It lies in a spool: what waits when the process dies comes first in the next one.
    """

    def __init__(self, path: Path) -> None:
        self._spool = Spool(path)
        self._queues: dict[Run, deque[int]] = {}
        for number, record in self._spool.waiting.items():
            self._queues.setdefault(record.run, deque()).append(number)
        self._changed = threading.Condition()
        self._closed = self._abandoned = False

    def __len__(self) -> int:
        with self._changed:
            return len(self._spool.waiting)

    def put(self, record: Record) -> None:
        with self._changed:
            number = self._spool.add(record)
            self._queues.setdefault(record.run, deque()).append(number)
            self._changed.notify_all()

    def take(self) -> list[Record]:
        """The next batch: neighbouring metrics of a run, or one other record.

        Blocks while there is nothing to do; an empty list says closed and empty.
        """
        with self._changed:
            self._changed.wait_for(lambda: bool(self._queues) or self._closed)
            if not self._queues:
                return []
            queue = next(iter(self._queues.values()))
            records = [self._spool.waiting[number] for number in islice(queue, MAX_MERGED)]
            return list(takewhile(_is_metrics, records)) or records[:1]

    def remove(self, batch: list[Record]) -> None:
        """Forget a batch from `take`, and give the next run its turn."""
        with self._changed:
            if self._abandoned:  # this send came back too late: the next process repeats it
                return
            queue = self._queues.pop(batch[0].run)
            self._spool.remove([queue.popleft() for _ in batch])
            if queue:
                self._queues[batch[0].run] = queue
            self._changed.notify_all()

    def postpone(self, batch: list[Record]) -> None:
        """Keep a batch from `take` for a later turn of its run."""
        with self._changed:
            if isinstance(batch[0], Start) and batch[0].run.trial is None:
                return  # the trials' runs are children of this one
            queue = self._queues.pop(batch[0].run)
            if is_file(batch[0]):
                # Files have no order, and a broken file store must not hold up the metrics.
                queue.rotate(-1)
            self._queues[batch[0].run] = queue

    def sync(self) -> None:
        """Bring what is written to the disk itself, where a power cut does not reach it.

        It takes milliseconds, hundreds on a busy disk; `put` does not wait meanwhile.
        """
        with self._changed:
            if self._abandoned:
                return
            copy = os.dup(self._spool.fileno())
        with suppress(OSError):  # a disk that fails is heard of where the next line is written
            os.fsync(copy)
        os.close(copy)

    def wait_until_empty(self, timeout: float) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: not self._queues, timeout)

    def close(self) -> None:
        """Let `take` return an empty list once everything is delivered."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def abandon(self) -> Unsent:
        """Leave what still waits to the next process. Nothing may be put any more."""
        with self._changed:
            if not self._abandoned:
                self._abandoned = True
                self._spool.close()
            lost = self._spool.lost
            return Unsent(len(self._spool.waiting) - lost, lost)


def _is_metrics(record: Record) -> bool:
    return isinstance(record, Metrics)
