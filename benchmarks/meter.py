"""CPU-seconds and memory of a command and of all that it starts, Ray's daemons included."""

from __future__ import annotations

import os
import threading
import time
import uuid
from collections import defaultdict
from dataclasses import dataclass, field
from types import TracebackType

import psutil  # type: ignore[import-untyped]

_MARK = "STEPSEARCH_METER"
_LOOK_S, _WEIGH_S = 0.2, 5.0
_ACTORS = {
    "ray::RayTrainWorker": "Ray Train workers (the lanes)",
    "ray::TrainController": "Ray Train's controllers",
    "ray::Dispatcher": "the dispatcher",
    "ray::ResourceTrainable": "Ray Tune's trial actors",
    "ray::LaneTrial": "Ray Tune's trial actors",
    "ray::": "Ray's other actors, idle processes",
}
_DAEMONS = ("raylet", "gcs_server", "site-packages/ray/")


@dataclass
class _Followed:
    """A process as it was last seen."""

    process: psutil.Process
    role: str
    cpu_s: float = 0.0


@dataclass
class Meter:
    """Follows the processes that carry a mark in their environment, and their children.

    The mark is in this process's `os.environ` inside the `with` block, so that whatever is started
    there inherits it; this process itself is not followed. Each process is looked at five times a
    second, and what one uses after the last look before its end (0.2 s at most) is missing.
    """

    peak_bytes: int = 0
    """Proportional set size of all processes together: shared pages count once."""
    most_processes: int = 0
    others_cpu_s: float = 0.0
    """What the rest of the machine used meanwhile, this process included: how quiet it was."""
    _followed: dict[int, _Followed] = field(default_factory=dict)
    _strangers: set[int] = field(default_factory=set)
    _ended: list[_Followed] = field(default_factory=list)

    def __enter__(self) -> Meter:
        self._mark = os.environ[_MARK] = uuid.uuid4().hex
        self._strangers = set(psutil.pids())
        self._busy_before = _busy()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        del os.environ[_MARK]
        self._over.set()
        self._thread.join()
        self.others_cpu_s = _busy() - self._busy_before - sum(self.cpu_s.values())

    @property
    def cpu_s(self) -> dict[str, float]:
        """CPU-seconds by what the process was, most first; of ended processes too."""
        total: dict[str, float] = defaultdict(float)
        for seen in [*self._ended, *self._followed.values()]:
            total[seen.role] += seen.cpu_s
        return dict(sorted(total.items(), key=lambda item: -item[1]))

    def _follow(self) -> None:
        weighed = 0.0
        while not self._over.wait(_LOOK_S):
            self._find()
            self._look()
            if time.monotonic() - weighed > _WEIGH_S:
                self._weigh()
                weighed = time.monotonic()

    def _find(self) -> None:
        """Ray's workers write their title over their environment: then the parent tells."""
        for pid in set(psutil.pids()) - self._strangers - set(self._followed):
            try:
                process = psutil.Process(pid)
                environment = process.environ()
                if environment.get(_MARK) == self._mark or process.ppid() in self._followed:
                    self._followed[pid] = _Followed(process, _role(process))
                elif environment:  # empty: it is just being started
                    self._strangers.add(pid)
            except psutil.Error:
                continue

    def _look(self) -> None:
        for pid, seen in list(self._followed.items()):
            try:
                used = seen.process.cpu_times()
                role = _role(seen.process)
            except psutil.Error:
                self._ended.append(self._followed.pop(pid))
                continue
            seen.cpu_s = used.user + used.system
            if role and not (role == _ACTORS["ray::"] and seen.role in _ACTORS.values()):
                seen.role = role  # an idle worker's title no longer says what it was
        self.most_processes = max(self.most_processes, len(self._followed))

    def _weigh(self) -> None:
        total = 0
        for seen in self._followed.values():
            try:
                total += seen.process.memory_full_info().pss
            except psutil.Error:
                continue
        self.peak_bytes = max(self.peak_bytes, total)


def _busy() -> float:
    """CPU-seconds of all processes of this machine since it started."""
    times = psutil.cpu_times()
    return float(sum(times) - times.idle - times.iowait - times.guest - times.guest_nice)


def _role(process: psutil.Process) -> str:
    command = " ".join(process.cmdline())
    if not command:  # it has just ended
        return ""
    for title, role in _ACTORS.items():
        if command.startswith(title):
            return role
    return "Ray's daemons" if any(part in command for part in _DAEMONS) else "the driver"
