"""A trial as Ray Tune sees it: a class trainable that only passes messages to a lane."""

from __future__ import annotations

from typing import Any

import ray
from ray import tune


class LaneTrial(tune.Trainable):
    """Asks the dispatcher for the results of its trial.

    The actor is reused for the next trial (`reuse_actors`); the training happens on a lane, which
    outlives it. When this actor dies, Tune starts another one that finds the trial under way,
    however often; a trial that failed therefore ends with a result, since an exception would look
    like a dead actor. It never stops a trial: Tune may replace an actor at any time, and only the
    searcher knows when a trial is over.
    """

    def setup(self, config: dict[str, Any]) -> None:
        self._dispatcher = ray.get_actor(config["dispatcher"])
        self._begin(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._begin(new_config)
        return True

    def step(self) -> dict[str, Any]:
        result = ray.get(self._dispatcher.result.remote(self._number, self._position))
        self._position += 1
        return dict(result)

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing: a trial's checkpoints are written by its lane."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Nothing: a trial goes on from its lane's checkpoint."""

    def _begin(self, config: dict[str, Any]) -> None:
        self._number = config["number"]
        self._position = ray.get(self._dispatcher.position.remote(self._number))
