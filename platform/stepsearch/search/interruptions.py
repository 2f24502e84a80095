"""What may interrupt a running search: a signal, or work beside it that fails."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from types import FrameType

from stepsearch.search.board import View


@contextmanager
def stop_on_signal(pause: Callable[[], None], view: View) -> Iterator[None]:
    """The first Ctrl-C or SIGTERM pauses the search, a second one interrupts this thread."""
    signals: list[int] = []

    def handler(number: int, frame: FrameType | None) -> None:
        signals.append(number)
        if len(signals) > 1:
            raise KeyboardInterrupt
        view.say("stopping: every trial saves a checkpoint (Ctrl-C again: stop at once)")
        threading.Thread(target=pause, daemon=True).start()

    if threading.current_thread() is not threading.main_thread():  # a notebook's thread, say
        yield
        return
    before = {n: signal.signal(n, handler) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


@contextmanager
def meanwhile(work: Callable[[], None], pause: Callable[[], None]) -> Iterator[None]:
    """Do something in a thread of its own; when it fails, pause the search and raise the error."""

    def stop_if_failed(done: Future[None]) -> None:
        if done.exception() is not None:
            pause()

    with ThreadPoolExecutor(1, thread_name_prefix="prepare") as pool:
        done = pool.submit(work)
        done.add_done_callback(stop_if_failed)
        yield
        done.result()
