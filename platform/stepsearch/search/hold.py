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
        self._share = 1.0
        self._before = before

    @property
    def up(self) -> bool:
        """Whether it holds them now."""
        return self._since is not None

    @property
    def seconds(self) -> float:
        """How long it has held them until now, in all; a part of them counts as a part."""
        since = self._since
        held = 0.0 if since is None else time.monotonic() - since
        return self._before + self._share * held

    def begin(self, share: float = 1.0) -> None:
        """It has them, or with fewer workers this share of them."""
        self._since, self._share, self.waiting = time.monotonic(), share, False

    def end(self) -> None:
        self._before, self._since, self.waiting = self.seconds, None, False
