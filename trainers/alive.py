"""Signs of life from a trial whose one step takes minutes: a worker without any counts as hung."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_EVERY_S = 5.0


@contextmanager
def alive(say: Callable[[], object]) -> Iterator[None]:
    """Call `say` every few seconds, from a thread of its own, until the block has ended.

    It falls silent where `say` raises: what the trial says next meets the same.
    """
    over = threading.Event()

    def repeat() -> None:
        while not over.wait(_EVERY_S):
            try:
                say()
            except Exception:  # of Ray: the trial has gone to another lane, or all is over
                return

    thread = threading.Thread(target=repeat, name="alive", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
