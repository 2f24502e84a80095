"""One peer, run once in a process of its own and watched from outside."""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.meter import Meter
from benchmarks.peers.task import Note, Task

_LOOK_S = 0.2


@dataclass(frozen=True)
class Measured:
    """What a peer did with its task, and what that took. Times are those of `time.time`."""

    task: Task
    notes: list[Note]
    meter: Meter
    began: float
    ended: float
    used: list[tuple[float, float]]
    """Times, and the CPU-seconds that had been used by then."""

    @property
    def wall_s(self) -> float:
        return self.ended - self.began

    @property
    def cpu_s(self) -> float:
        return sum(self.meter.cpu_s.values())

    @property
    def work_s(self) -> float:
        """CPU-seconds of training and evaluation, up to each trial's last report."""
        names = ("train_cpu_s", "evaluation_cpu_s")
        return sum(note.metrics[name] for note in self.notes for name in names)

    @property
    def images(self) -> int:
        """Up to each trial's last report: what it trained after that was in vain."""
        return sum({note.trial: note.images_seen for note in self.notes}.values())

    @property
    def finished(self) -> list[Note]:
        """The last reports of the trials that reached their budget, in the order of time."""
        return [note for note in self.notes if note.images_seen == self.task.budget]

    def cpu_s_by(self, at: float) -> float:
        """The CPU-seconds that had been used at a time."""
        times, used = zip(*self.used, strict=True)
        return float(np.interp(at, times, used))


def measure(script: Path, task: Task) -> Measured:
    """Run a peer's script. Raises SystemExit, with its output, if it fails."""
    task.write()
    began = time.time()
    used = [(began, 0.0)]
    with (task.folder / "output").open("w+") as output, Meter() as meter:
        process = subprocess.Popen(
            [sys.executable, str(script), str(task.folder)],
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        while process.poll() is None:
            time.sleep(_LOOK_S)
            used.append((time.time(), sum(meter.cpu_s.values())))
        ended = time.time()
        if process.returncode:
            output.seek(0)
            raise SystemExit(f"{output.read()}\n{script.name} ended with {process.returncode}")
    return Measured(task, task.notes(), meter, began, ended, used)
