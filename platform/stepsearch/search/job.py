"""A trial as the dispatcher follows it, from its offer to its last result."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

Metrics = dict[str, float]
Result = dict[str, Any]
Group = tuple[int, str]
"""A lane and the incarnation of its worker group."""

INTERRUPTED: Result = {"done": True, "outcome": "interrupted"}


@dataclass
class Job:
    """An offered trial."""

    budget: int
    sealed: bytes  # the Trial, pickled: only a lane's worker can open it
    group: Group | None = None  # whose words count; None: nobody's
    attempts: int = 0
    images_seen: int = 0
    results: list[Result] = field(default_factory=list)
    decided: int = 0  # Tune lets the trial go on after results[:decided]
    stopped: bool = False
    moving: bool = False  # it shall leave its lane, to go on elsewhere
    over: bool = False
    error: str | None = None
    heard: float = 0.0  # when its lane last gave a sign of life, in seconds
    verdicts: dict[tuple[str, int], bool] = field(default_factory=dict)

    def start(self, group: Group, now: float) -> bytes:
        self.attempts += 1
        self.group, self.heard = group, now
        return self.sealed

    def verdict(self, question: str, images_seen: int) -> bool:
        """May the trial go on? Answered once, so that all workers of a lane hear the same."""
        leaves = self.stopped or self.over or self.moving
        return self.verdicts.setdefault((question, images_seen), not leaves)

    @property
    def undecided(self) -> bool:
        """Tune has not said yet what it thinks of the last report."""
        return len(self.results) > self.decided

    def position(self, images_seen: int) -> int | None:
        """Where the report of this milestone stands among the results."""
        seen = [result.get("images_seen") for result in self.results]
        return seen.index(images_seen) if images_seen in seen else None

    def let_go(self, images_seen: int) -> bool:
        """Whether Tune has decided to go on after this milestone."""
        position = self.position(images_seen)
        return position is not None and self.decided > position

    def release(self) -> None:
        """The lane has lost the trial; what its workers still say is not heard."""
        self.group = None
        self.verdicts.clear()
        if self.moving:  # not its fault
            self.moving = False
            self.attempts -= 1

    def publish(self, result: Result) -> None:
        self.results.append(result)
        self.over = result["done"]
        if result.get("outcome") == "error":
            self.error = result["reason"]

    def fail(self, reason: str, **more: str) -> None:
        self.publish({"done": True, "outcome": "error", "reason": reason, **more})


def result_of(metrics: Metrics, metric: str, images_seen: int, budget: int) -> Result:
    """A milestone as Ray Tune gets it: it keeps statistics of every number that it finds."""
    odd = [f"{name} is {value}" for name, value in metrics.items() if not math.isfinite(value)]
    if odd:
        return {"done": True, "outcome": "diverged", "reason": ", ".join(odd)}
    result: Result = {"images_seen": images_seen, "metrics": tuple(metrics.items()), "done": False}
    if metric in metrics:
        result[metric] = metrics[metric]
    if images_seen >= budget:
        result |= {"done": True, "outcome": "finished"}
    return result
