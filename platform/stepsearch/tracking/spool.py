"""The file that holds what waits for MLflow; it outlives the process."""

from __future__ import annotations

import errno
import logging
import os
from collections import deque
from contextlib import suppress
from pathlib import Path

from stepsearch.tracking.lines import record_line, removed_line, replay
from stepsearch.tracking.records import Record

log = logging.getLogger("stepsearch.tracking")

MAX_SPENT = 1000  # lines that say nothing any more: the file is then written anew, without them


class Spool:
    """Records by number, in the order in which they came, each on the disk before `add` returns.

    A line is a record, or says which ones are delivered. The file is empty when nothing waits.
    What dies with the process is nothing: the system keeps what is written. Only a power cut
    takes what is not on the disk itself yet, see `Backlog.sync`.

    A record that does not fit on the disk stays in memory, and is written as soon as it fits.
    One process writes; others may count meanwhile. Not thread-safe.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._part = path.with_name(f".{path.name}.part")
        self._part.unlink(missing_ok=True)
        self.waiting, self._size, self._lines = _read(path)
        self._last = max(self.waiting, default=0)
        self._unsaved: deque[tuple[int | None, bytes]] = deque()
        self._disk_is_full = False
        self._file = path.open("ab", buffering=0)
        self._file.truncate(self._size)  # a killed process may have left half a line

    @property
    def lost(self) -> int:
        """How many records would die with the process: they did not fit on the disk."""
        return sum(number in self.waiting for number, _ in self._unsaved)

    def add(self, record: Record) -> int:
        """Keep a record; its number."""
        self._last += 1
        self.waiting[self._last] = record
        self._save(self._last, record_line(self._last, record, self._path.parent))
        return self._last

    def remove(self, numbers: list[int]) -> None:
        """Forget records that are delivered."""
        for number in numbers:
            del self.waiting[number]
        if not self.waiting:
            self._file.truncate(0)
            self._size = self._lines = 0
            self._unsaved.clear()
        elif self._lines < 2 * len(self.waiting) + MAX_SPENT or not self._rewrite():
            self._save(None, removed_line(numbers))

    def fileno(self) -> int:
        return self._file.fileno()

    def close(self) -> None:
        """Close the file; remove it if nothing waits."""
        self._flush()
        self._file.close()
        if self._size == 0:
            self._path.unlink(missing_ok=True)

    def _save(self, number: int | None, line: bytes) -> None:
        self._unsaved.append((number, line))
        self._flush()

    def _flush(self) -> None:
        """Append what is not on the disk yet, in order and as far as it fits."""
        try:
            while self._unsaved:
                self._append(self._unsaved[0][1])
                self._unsaved.popleft()
        except OSError as error:
            self._file.truncate(self._size)
            if not self._disk_is_full:
                log.warning("records for MLflow stay in memory only: %s", error)
        self._disk_is_full = bool(self._unsaved)

    def _append(self, line: bytes) -> None:
        if self._file.write(line) != len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._size += len(line)
        self._lines += 1

    def _rewrite(self) -> bool:
        """Replace the file by one with the waiting records only: all of it or nothing."""
        lines = [record_line(n, record, self._path.parent) for n, record in self.waiting.items()]
        try:
            with self._part.open("wb") as part:
                part.writelines(lines)
                part.flush()
                os.fsync(part.fileno())
            self._part.replace(self._path)
        except OSError:
            with suppress(OSError):
                self._part.unlink(missing_ok=True)
            return False
        self._file.close()
        self._file = self._path.open("ab", buffering=0)
        self._size, self._lines = sum(map(len, lines)), len(lines)
        self._unsaved.clear()
        return True


def count_waiting(path: Path) -> int:
    """How many records wait in a spool file, which a running search may be writing."""
    return len(_read(path)[0])


def _read(path: Path) -> tuple[dict[int, Record], int, int]:
    """The records that wait, and the bytes and the number of the file's whole lines."""
    data = path.read_bytes() if path.exists() else b""
    size = data.rfind(b"\n") + 1
    lines = data[:size].splitlines()
    waiting: dict[int, Record] = {}
    damaged = 0
    for line in lines:
        try:
            replay(waiting, line, path.parent)
        except ValueError:
            damaged += 1
    if damaged:
        log.warning("%d lines in %s are damaged and left out", damaged, path)
    return waiting, size, len(lines)
