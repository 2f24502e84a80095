"""The records that wait for delivery: in order within a run, the runs in turn."""

from __future__ import annotations

import threading
from collections import deque
from itertools import islice, takewhile

from stepsearch.tracking.records import Metrics, Record, Run, is_file

MAX_MERGED = 50  # records in one batch: bounds one request to about 1250 values


class Backlog:
    """A thread-safe queue with one consumer; a record leaves it only when it is delivered.

    It lives in memory. A spool that outlives the process takes the place of this class.
    """

    def __init__(self) -> None:
        self._queues: dict[Run, deque[Record]] = {}
        self._changed = threading.Condition()
        self._closed = False

    def __len__(self) -> int:
        with self._changed:
            return sum(len(queue) for queue in self._queues.values())

    def put(self, record: Record) -> None:
        with self._changed:
            self._queues.setdefault(record.run, deque()).append(record)
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
            metrics = takewhile(lambda record: isinstance(record, Metrics), queue)
            return list(islice(metrics, MAX_MERGED)) or [queue[0]]

    def remove(self, batch: list[Record]) -> None:
        """Forget a batch from `take`, and give the next run its turn."""
        with self._changed:
            queue = self._queues.pop(batch[0].run)
            for _ in batch:
                queue.popleft()
            if queue:
                self._queues[batch[0].run] = queue
            self._changed.notify_all()

    def postpone(self, batch: list[Record]) -> None:
        """Keep a batch from `take` for a later turn of its run."""
        with self._changed:
            queue = self._queues.pop(batch[0].run)
            if is_file(queue[0]):
                # Files have no order, and a broken file store must not hold up the metrics.
                queue.rotate(-1)
            self._queues[batch[0].run] = queue

    def wait_until_empty(self, timeout: float) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: not self._queues, timeout)

    def close(self) -> None:
        """Let `take` return an empty list once everything is delivered."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
