"""What a lane holds of the cluster, and since when."""

from __future__ import annotations

import threading
import time


class Hold:
    """The CPUs and GPUs of a lane; written by its thread, read by others."""

    def __init__(self, before: float = 0.0) -> None:
        """`before`: seconds that count as held already."""
        self.waiting = False
        """It has asked for CPUs and GPUs, and they are not free."""
        self.cancelled = threading.Event()
        """It is to take nothing more."""
        self._since: float | None = None
        self._before = before

    @property
    def up(self) -> bool:
        """Whether it holds them now."""
        return self._since is not None

    @property
    def seconds(self) -> float:
        """How long it has held them until now, in all."""
        since = self._since
        return self._before + (0.0 if since is None else time.monotonic() - since)

    def begin(self) -> None:
        self._since, self.waiting = time.monotonic(), False

    def end(self) -> None:
        self._before, self._since, self.waiting = self.seconds, None, False
