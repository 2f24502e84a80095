"""What the parts of a trial take: seconds of the clock, and of this process's CPU."""

from __future__ import annotations

import time

OF_THE_CLOCK = frozenset(
    {
        *("train_cpu_s", "evaluation_cpu_s", "images_per_s"),
        *("drawing_s", "drawing_cpu_s", "judging_s", "judging_cpu_s"),
    }
)
"""What differs between the reports of a training and of its repetition."""


class Stopwatch:
    """Measures one part after another, from the end of the last one."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.process_time()
        self.laps: dict[str, float] = {}
        """`<part>_s` and `<part>_cpu_s` of each part."""

    def lap(self, part: str) -> None:
        """The end of a part, or of some more of it."""
        wall, cpu = self._wall, self._cpu
        self._wall, self._cpu = time.perf_counter(), time.process_time()
        for name, took in ((f"{part}_s", self._wall - wall), (f"{part}_cpu_s", self._cpu - cpu)):
            self.laps[name] = self.laps.get(name, 0.0) + took
