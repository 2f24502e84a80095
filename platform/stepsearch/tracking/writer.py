"""One thread that delivers records while the search goes on."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from stepsearch.tracking.backlog import Backlog, Unsent
from stepsearch.tracking.client import is_doubtful, is_final, reason
from stepsearch.tracking.records import Record, Run, is_file

log = logging.getLogger("stepsearch.tracking")

FIRST_PAUSE = 0.2  # seconds after the first failure in a row; doubles up to LONGEST_PAUSE
LONGEST_PAUSE = 5.0
ENOUGH = 8  # doubtful answers in a row are a final one; they take some 16 seconds
AWAY = 5.0  # seconds for which `close` asks a store that does not answer


class Writer:
    """Delivers records in order, again and again while MLflow is away.

    What an earlier process left in the spool comes first.
    """

    def __init__(self, send: Callable[[list[Record]], None], spool: Path) -> None:
        self._send = send
        self._backlog = Backlog(spool)
        self._failures: Counter[str] = Counter()
        self._doubts: Counter[Run] = Counter()
        self._refused = 0
        self._complained: set[Run] = set()
        self._away = False
        self._closing = threading.Event()
        self._given_up = threading.Event()
        # A daemon: a server that hangs must not keep the process alive after `close`.
        self._thread = threading.Thread(target=self._work, name="tracking", daemon=True)
        self._thread.start()

    def put(self, record: Record) -> None:
        """Keep a record, on the disk; takes microseconds and never fails (see `Spool`)."""
        self._backlog.put(record)

    def flush(self, timeout: float) -> bool:
        """Wait until everything is delivered; False if that took longer than `timeout` s."""
        return self._backlog.wait_until_empty(timeout)

    def close(self, timeout: float) -> Unsent:
        """Deliver what waits; what did not make it.

        Gives up when none was delivered for `timeout` s: a search of a thousand short trials may
        be far ahead of MLflow when it ends. A store that was away is asked once more, at once: it
        may have come back while the writer paused.
        """
        self._backlog.close()
        self._away = False
        self._closing.set()
        waiting, since = len(self._backlog), time.monotonic()
        while self._thread.is_alive() and time.monotonic() - since < self._patience(timeout):
            self._thread.join(FIRST_PAUSE)
            if (now := len(self._backlog)) < waiting:
                waiting, since, self._away = now, time.monotonic(), False
        self._given_up.set()
        left = self._backlog.abandon()
        return Unsent(left.waiting, left.lost + self._refused)

    def _patience(self, timeout: float) -> float:
        return min(timeout, AWAY) if self._away else timeout

    def _work(self) -> None:
        while not self._given_up.is_set() and (batch := self._backlog.take()):
            try:
                self._send(batch)
            except Exception as error:
                if self._is_final(batch[0].run, error):
                    self._refuse(batch, error)
                else:
                    self._wait(batch, error)
            else:
                self._backlog.remove(batch)
                self._recovered(batch)

    def _is_final(self, run: Run, error: Exception) -> bool:
        self._doubts[run] += is_doubtful(error)
        return is_final(error) or self._doubts[run] >= ENOUGH

    def _refuse(self, batch: list[Record], error: Exception) -> None:
        self._backlog.remove(batch)
        self._refused += len(batch)
        run = batch[0].run
        self._doubts.pop(run)
        if run not in self._complained:
            self._complained.add(run)
            name = "the search" if run.trial is None else f"trial {run.trial}"
            kind = type(batch[0]).__name__.lower()
            log.warning("MLflow refused the %s of %s: %s", kind, name, reason(error))

    def _wait(self, batch: list[Record], error: Exception) -> None:
        store = _store(batch)
        if self._failures[store] == 0:
            log.warning("%s does not answer (%s); its records wait", store, reason(error))
        self._backlog.postpone(batch)
        self._backlog.sync()
        self._away = not is_doubtful(error)
        self._pause(self._failures[store])
        self._failures[store] += 1

    def _pause(self, failures: int) -> None:
        """After `failures` others in a row; `close` ends it and asks more often."""
        pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** min(failures, 10))
        if not self._closing.is_set():
            self._closing.wait(pause)
        else:
            self._given_up.wait(FIRST_PAUSE if self._away else pause)

    def _recovered(self, batch: list[Record]) -> None:
        self._doubts.pop(batch[0].run, None)
        if self._failures.pop(_store(batch), 0):
            log.warning("%s answers again; %d records wait", _store(batch), len(self._backlog))


def _store(batch: list[Record]) -> str:
    return "MLflow's artifact store" if is_file(batch[0]) else "MLflow"
