"""One driver a search in a bucket: an object says who has it, and is renewed while he lives."""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from stepsearch.bucket import Bucket, Stored
from stepsearch.errors import StepsearchError, UserError

log = logging.getLogger("stepsearch.storage")

NAME = "lock.json"
SECONDS = 60.0
"""A driver that has not renewed its lease for so long is taken for dead."""


class Lease:
    """Held by one process at a time.

    It is taken and renewed by conditional writes: of two that try at the same moment one succeeds.
    A server that ignores the conditions leaves a gap of some milliseconds, in which both would.
    """

    def __init__(self, bucket: Bucket, seconds: float = SECONDS) -> None:
        self._bucket, self._seconds = bucket, seconds
        self._token = uuid.uuid4().hex
        self._tag, self._renewed, self._count = "", 0.0, 0
        self._lock, self._over = threading.Lock(), threading.Event()

    @contextmanager
    def held(self) -> Iterator[Lease]:
        """Raises UserError if another driver lives: it is waited for until it shows that, or until
        its lease ends."""
        self._take()
        beats = threading.Thread(target=self._beat, name="lease", daemon=True)
        beats.start()
        try:
            yield self
        finally:
            self._over.set()
            beats.join()
            with suppress(UserError):
                if self._is_mine(self._bucket.read(NAME)):
                    self._bucket.remove(NAME)

    def check(self) -> None:
        """Before a record is written. Raises StepsearchError when another driver has the search,
        Away when that cannot be known."""
        with self._lock:
            if time.monotonic() - self._renewed > self._seconds / 3:
                self._renew()

    def _beat(self) -> None:
        while not self._over.wait(self._seconds / 4):
            try:
                with self._lock:
                    self._renew()
            except UserError:  # the store is away, or refuses: that may be over before the lease
                continue
            except StepsearchError:  # another driver has it: `check` says so
                return

    def _take(self) -> None:
        first: str | None = None
        while True:
            found = self._bucket.read(NAME)
            if found is not None and not self._is_over(found):
                if first is None:
                    log.warning("waiting to see whether the search's driver still lives")
                    first = found.tag
                if found.tag != first:
                    raise UserError(
                        f"search {self._bucket.url.split('/')[-1]!r} must not be running already: "
                        f"a driver on {json.loads(found.data)['host']} has it"
                    )
                time.sleep(self._seconds / 30)
            elif self._write(found.tag if found else ""):
                return

    def _renew(self) -> None:
        if self._write(self._tag):
            return
        found = self._bucket.read(NAME)
        if not self._is_mine(found) or found is None:
            raise StepsearchError("another driver has taken the search over")
        self._tag, self._renewed = found.tag, time.monotonic()  # the answer had been lost

    def _write(self, instead_of: str) -> bool:
        begun, self._count = time.monotonic(), self._count + 1
        data = {
            "host": socket.gethostname(),
            "place": _place(),
            "pid": os.getpid(),
            "token": self._token,
            "count": self._count,  # so that no two have one tag
        }
        tag = self._bucket.write(NAME, json.dumps(data).encode(), instead_of=instead_of)
        if tag:
            self._tag, self._renewed = tag, begun
        return bool(tag)

    def _is_mine(self, found: Stored | None) -> bool:
        return found is not None and bool(json.loads(found.data)["token"] == self._token)

    def _is_over(self, found: Stored) -> bool:
        """It was not renewed in time, or its owner was a process of this machine that is gone."""
        owner, here = json.loads(found.data), _place()
        if here and owner["place"] == here and not Path(f"/proc/{owner['pid']}").exists():
            return True
        return found.age_s > self._seconds


def _place() -> str:
    """Where a process id means the same; empty where Linux is not asked."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    if not boot.exists():
        return ""
    return f"{boot.read_text().strip()} {os.readlink('/proc/self/ns/pid')}"
