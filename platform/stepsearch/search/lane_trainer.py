"""A TorchTrainer that needs few processes: its controller is a thread of the driver.

Ray Train has no public way to say this, so private parts of it (Ray 2.60) are replaced here, and
nowhere else.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import closing, suppress
from typing import Any

import ray
import ray.train
from ray.train.torch import TorchTrainer
from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.exceptions import WorkerGroupStartupTimeoutError
from ray.train.v2._internal.execution.callback import WorkerGroupCallback
from ray.train.v2._internal.execution.controller import TrainController
from ray.train.v2._internal.execution.failure_handling import (
    DefaultFailurePolicy,
    FailureDecision,
)
from ray.train.v2._internal.execution.scaling_policy import FixedScalingPolicy
from ray.train.v2._internal.execution.worker_group import Worker, WorkerGroup

_DISPENSABLE = (DatasetsCallback, PlacementGroupCleanerCallback)


class LaneTrainer(TorchTrainer):
    """A TorchTrainer without the processes that a lane does not need.

    Its controller runs in the thread that calls `fit`, not in an actor. Of the helper actors the
    one that hands out Ray Data shards is left out, and the one that gives back the placement group
    of a controller that died: the group belongs to this driver and ends with it.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._loop = asyncio.new_event_loop()
        self.hold = Hold()

    def cancel(self) -> None:
        """Make `fit` end its workers and raise CancelledError; from any thread."""
        with suppress(RuntimeError):  # the loop is closed: it is over
            self._loop.call_soon_threadsafe(self._cancel_tasks)

    def _cancel_tasks(self) -> None:
        for task in asyncio.all_tasks(self._loop):
            task.cancel()

    def _initialize_and_run_controller(self, **parts: Any) -> ray.train.Result:
        patience = _Patience(self.run_config.failure_config, self.hold)
        controller = _LaneController(
            **parts
            | {"scaling_policy": _LanePolicy(self.scaling_config), "failure_policy": patience}
        )
        with closing(self._loop):
            try:
                self._loop.run_until_complete(controller.run())
            finally:
                workers = controller.get_worker_group()
                if workers is not None and workers.has_started():
                    workers.abort()
                self.hold.end()
        return controller.get_result()

    def _create_default_callbacks(self) -> list[Any]:
        callbacks = super()._create_default_callbacks()
        kept = [callback for callback in callbacks if not isinstance(callback, _DISPENSABLE)]
        return [*kept, self.hold]


class Hold(WorkerGroupCallback):
    """Since when and for how long a lane has held the CPUs and GPUs of its workers.

    Written by the lane's thread, read by others.
    """

    def __init__(self) -> None:
        self._asked = 0.0
        self._since: float | None = None
        self._before = 0.0
        self.waiting = False
        """It has asked for its CPUs and GPUs, and they are not free."""

    @property
    def up(self) -> bool:
        """Whether the workers are there."""
        return self._since is not None

    @property
    def seconds(self) -> float:
        """Held until now, all worker groups of the lane together."""
        since = self._since
        return self._before + (0.0 if since is None else time.monotonic() - since)

    def before_worker_group_start(self, worker_group_context: Any) -> None:
        self._asked = time.monotonic()

    def after_worker_group_start(self, worker_group: Any) -> None:
        self._since, self.waiting = self._asked, False

    def after_worker_group_shutdown(self, worker_group_context: Any) -> None:
        self.end()

    def end(self) -> None:
        """The CPUs and GPUs are given back."""
        self._before, self._since = self.seconds, None


class _Patience(DefaultFailurePolicy):
    """Waits for CPUs and GPUs that somebody else holds for as long as that takes."""

    def __init__(self, config: ray.train.FailureConfig, hold: Hold) -> None:
        super().__init__(config)
        self._hold = hold

    def make_decision(self, training_failed_error: Any) -> FailureDecision:
        failure = getattr(training_failed_error, "controller_failure", None)
        if isinstance(failure, WorkerGroupStartupTimeoutError):
            self._hold.waiting = True
            return FailureDecision.RETRY
        return super().make_decision(training_failed_error)


class _LanePolicy(FixedScalingPolicy):
    """A policy without Train's coordinator, one more actor that imports Ray Data: the autoscaler
    hears of a lane by its placement group."""

    def after_controller_start(self, train_run_context: Any) -> None:
        """Nothing: there is no coordinator."""

    def _maybe_send_resource_request(self) -> None:
        """Nothing: there is nobody to send it to."""


class _LaneWorkers(WorkerGroup):
    """Its workers are not told of a controller's actor: there is none."""

    def _init_train_context_on_workers(
        self, workers: list[Worker], sync_actor: Any, train_context_args: dict[str, list[Any]]
    ) -> None:
        said = [
            worker.actor.init_train_context.remote(
                train_run_context=self._train_run_context,
                distributed_context=worker.distributed_context,
                synchronization_actor=sync_actor,
                storage_context=self._storage_context,
                worker_callbacks=self._worker_callbacks_to_propagate,
                controller_actor=None,
                **{name: values[i] for name, values in train_context_args.items()},
            )
            for i, worker in enumerate(workers)
        ]
        ray.get(said)
        self._decorate_worker_log_file_paths(workers)


class _LaneController(TrainController):
    worker_group_cls = _LaneWorkers

    async def _step(self) -> Any:
        """To ask for workers again and again awaits nothing: `cancel` would go unheard."""
        await asyncio.sleep(0)
        return await super()._step()
