"""Vital signs of a running search: what its processes hold, and what Ray holds for them."""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil  # type: ignore[import-untyped]

from stepsearch.search.board import Board, Silent

DRIVER, WORKERS, DISPATCHER = "driver", "Train workers", "dispatcher"
TRIALS = "Tune's trial actors"
ROLES = {
    "ray::RayTrainWorker": WORKERS,
    "ray::Dispatcher": DISPATCHER,
    "ray::ResourceTrainable": TRIALS,
    "ray::LaneTrial": TRIALS,  # the same, between two calls
    "ray::": "Ray's helpers",
}
"""How the titles of Ray's processes begin; the first match counts."""
MEMORY, RESIDENT = "memory, MiB", "memory with files and shared, MiB"
DESCRIPTORS, THREADS, COUNTS = "open descriptors", "threads", "count"
CLOSED = "closed MLflow runs"
CPU = "CPU-seconds since the start"


@dataclass(frozen=True)
class Sign:
    """A number, at a time of `time.time`: what was counted, and whose it is."""

    at: float
    what: str
    whose: str
    value: float


def of_processes(driver: psutil.Process) -> list[Sign]:
    """The driver and all that it has started; processes of one role are added up.

    Memory is what a process has allocated and touched. (What psutil calls its unique memory also
    depends on who else on the machine has opened the same files.)
    """
    now, total, count = time.time(), Counter[tuple[str, str]](), 0
    for process in [driver, *driver.children(recursive=True)]:
        with suppress(psutil.Error):  # it may end while it is looked at
            role = DRIVER if process == driver else _role(process)
            memory = process.memory_info()
            total[MEMORY, role] += (memory.rss - memory.shared) / 2**20
            total[RESIDENT, role] += memory.rss / 2**20
            total[DESCRIPTORS, role] += process.num_fds()
            total[THREADS, role] += process.num_threads()
            count += 1
    signs = [Sign(now, what, whose, value) for (what, whose), value in total.items()]
    return [*signs, Sign(now, COUNTS, "processes", count)]


def _role(process: psutil.Process) -> str:
    command = " ".join(process.cmdline())
    for title, role in ROLES.items():
        if command.startswith(title):
            return role
    name: str = process.name()
    return name if name in ("raylet", "gcs_server") else ROLES["ray::"]


def of_mlflow(store: Path) -> list[Sign]:
    """How many trials' runs are closed in a sqlite store; nothing while it is being made."""
    query = "SELECT count(*) FROM runs WHERE status != 'RUNNING'"
    with (
        suppress(sqlite3.Error),
        closing(sqlite3.connect(f"file:{store}?mode=ro", uri=True)) as connection,
    ):
        [(closed,)] = connection.execute(query)
        return [Sign(time.time(), COUNTS, CLOSED, closed)]
    return []


class FromInside(Silent):
    """A view that draws nothing, but writes down what only the driver itself can see."""

    def __init__(self, file: Path, every: float) -> None:
        """Append to `file` every so many seconds."""
        self._file, self._every = file, every
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="vitals", daemon=True)

    def show(self, board: Board) -> None:
        """The driver is connected to Ray from here on, until `close`."""
        self._thread.start()

    def close(self) -> None:
        self._over.set()
        if self._thread.is_alive():
            self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(self._every):
            lines = [json.dumps(asdict(sign)) for sign in [*_of_ray(), *_of_threads()]]
            with self._file.open("a") as file:
                file.write("\n".join(lines) + "\n")


def _of_ray() -> Iterator[Sign]:
    """Ray's public listing needs its dashboard, which a search does not start."""
    import ray
    from ray._private.state import actors
    from ray.util import placement_group_table

    now, known = time.time(), actors().values()
    groups = [g for g in placement_group_table().values() if g["state"] != "REMOVED"]
    alive = sum(actor["State"] != "DEAD" for actor in known)
    yield Sign(now, COUNTS, "Ray actors", alive)
    yield Sign(now, COUNTS, "Ray actors ever", len(known))
    yield Sign(now, COUNTS, "placement groups", len(groups))
    yield Sign(now, COUNTS, "free CPUs", ray.available_resources().get("CPU", 0))


def _of_threads() -> Iterator[Sign]:
    """CPU-seconds of the driver's Python threads, by name; of Ray's own together."""
    names = {thread.native_id: thread.name for thread in threading.enumerate()}
    total, now = Counter[str](), time.time()
    for thread in psutil.Process().threads():
        total[names.get(thread.id, "Ray's")] += thread.user_time + thread.system_time
    for name, seconds in total.items():
        yield Sign(now, CPU, name, seconds)


def read(file: Path) -> list[Sign]:
    return [Sign(**json.loads(line)) for line in file.read_text().splitlines()]
