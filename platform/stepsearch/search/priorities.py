"""Priorities among the searches of one cluster.

Ray has one list of all placement groups, and a group that waits for its CPUs is in it. So a lane's
group is named after the priority of its search: who sees a higher one wait can make room for it,
and nothing is left to be cleaned up when a driver dies.
"""

from __future__ import annotations

import re
import uuid

from ray.util import placement_group_table

_NAME = re.compile(r"stepsearch-lane-\d+-priority-(\d+)-")


def lane_name(number: int, priority: int) -> str:
    """A name that no other lane has."""
    return f"stepsearch-lane-{number}-priority-{priority}-{uuid.uuid4().hex[:8]}"


def lanes_in_want(priority: int) -> int:
    """How many lanes of a higher priority than this wait for CPUs and GPUs."""
    pending = [g["name"] for g in placement_group_table().values() if g["state"] == "PENDING"]
    return sum(int(found[1]) > priority for name in pending if (found := _NAME.match(name)))
