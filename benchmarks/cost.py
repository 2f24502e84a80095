"""What a piece of work costs this process: time and memory, as Linux counts them."""

from __future__ import annotations

import ctypes
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Cost:
    """Of one call."""

    wall_s: float
    cpu_s: float
    peak_mib: float
    """Memory over what the process held before."""


def measured(call: Callable[[], Any]) -> tuple[Cost, Any]:
    """What a call costs, and what it returns."""
    ctypes.CDLL("libc.so.6").malloc_trim(0)  # what was freed is given back
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = _memory("VmRSS")
    wall, cpu = time.perf_counter(), time.process_time()
    result = call()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return Cost(round(wall, 2), round(cpu, 2), round(_memory("VmHWM") - before)), result


def _memory(key: str) -> float:
    found = re.search(rf"{key}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) / 1024
