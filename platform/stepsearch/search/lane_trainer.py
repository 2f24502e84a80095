"""A TorchTrainer that needs few processes: its controller is a thread of the driver.

Ray Train has no public way to say this, so private parts of it (Ray 2.60) are replaced here, and
nowhere else.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import closing, suppress
from typing import Any

import ray
import ray.train
from ray.train.torch import TorchTrainer
from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.exceptions import WorkerGroupStartupTimeoutError
from ray.train.v2._internal.execution.controller import TrainController
from ray.train.v2._internal.execution.failure_handling import FailureDecision, FailurePolicy
from ray.train.v2._internal.execution.scaling_policy import FixedScalingPolicy
from ray.train.v2._internal.execution.worker_group import Worker, WorkerGroup
from ray.train.v2.api.exceptions import ControllerError, TrainingFailedError

_DISPENSABLE = (DatasetsCallback, PlacementGroupCleanerCallback)
_STARTS_IN_VAIN = 3
"""So many worker groups in a row may die before they ask for a trial."""


class LaneTrainer(TorchTrainer):
    """A TorchTrainer without the processes that a lane does not need.

    Its controller runs in the thread that calls `fit`, not in an actor. Of the helper actors the
    one that hands out Ray Data shards is left out, and the one that gives back the placement group
    of a controller that died: the group belongs to this driver and ends with it.
    """

    def __init__(self, *arguments: Any, lost: Callable[[], bool], **options: Any) -> None:
        """`lost` is called when the worker group is; it says whether the group had worked."""
        super().__init__(*arguments, **options)
        self._lost = lost
        self._loop = asyncio.new_event_loop()
        self._controller: TrainController | None = None

    def cancel(self) -> None:
        """Make `fit` end its workers and raise CancelledError; from any thread."""
        with suppress(RuntimeError):  # the loop is closed: it is over
            self._loop.call_soon_threadsafe(self._cancel_tasks)

    def kill_workers(self) -> None:
        """End the worker group as if it had crashed: another one is started."""
        group = self._controller and self._controller.get_worker_group()
        for worker in group.get_workers() if group and group.has_started() else ():
            ray.kill(worker.actor)

    def _cancel_tasks(self) -> None:
        for task in asyncio.all_tasks(self._loop):
            task.cancel()

    def _initialize_and_run_controller(self, **parts: Any) -> ray.train.Result:
        policies = {
            "scaling_policy": _LanePolicy(self.scaling_config),
            "failure_policy": _LaneFailures(self._lost),
        }
        controller = self._controller = _LaneController(**parts | policies)
        with closing(self._loop):
            try:
                self._loop.run_until_complete(controller.run())
            finally:
                workers = controller.get_worker_group()
                if workers is not None and workers.has_started():
                    workers.abort()
        return controller.get_result()

    def _create_default_callbacks(self) -> list[Any]:
        callbacks = super()._create_default_callbacks()
        return [callback for callback in callbacks if not isinstance(callback, _DISPENSABLE)]


class _LanePolicy(FixedScalingPolicy):
    """A policy without Train's coordinator, one more actor that imports Ray Data: the autoscaler
    hears of a lane by its placement group."""

    def after_controller_start(self, train_run_context: Any) -> None:
        """Nothing: there is no coordinator."""

    def _maybe_send_resource_request(self) -> None:
        """Nothing: there is nobody to send it to."""


class _LaneFailures(FailurePolicy):
    """Starts a lost worker group again, however often, unless it never comes to work.

    A group for which the cluster has no room waits: it may share the cluster with others, or its
    node may come back.
    """

    def __init__(self, lost: Callable[[], bool]) -> None:
        super().__init__(ray.train.FailureConfig())
        self._lost, self._in_vain = lost, 0

    def make_decision(self, training_failed_error: TrainingFailedError) -> FailureDecision:
        if _has_no_room(training_failed_error):
            return FailureDecision.RETRY
        self._in_vain = 0 if self._lost() else self._in_vain + 1
        return FailureDecision.RETRY if self._in_vain < _STARTS_IN_VAIN else FailureDecision.RAISE


def _has_no_room(error: TrainingFailedError) -> bool:
    return isinstance(error, ControllerError) and isinstance(
        error.controller_failure, WorkerGroupStartupTimeoutError
    )


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
