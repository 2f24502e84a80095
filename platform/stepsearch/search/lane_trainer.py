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
from ray.train.v2._internal.execution.worker_group.placement_group_handle import (
    DefaultPlacementGroupHandle,
)
from ray.train.v2.api.exceptions import TrainingFailedError
from ray.util.placement_group import PlacementGroup, placement_group

from stepsearch.search.hold import Hold

_DISPENSABLE = (DatasetsCallback, PlacementGroupCleanerCallback)
_STARTS_IN_VAIN = 3
"""So many worker groups in a row may die before they ask for a trial."""
_PATIENCE_S = 2.0
"""How long a placement group may take until its lane is said to wait for it."""


class LaneTrainer(TorchTrainer):
    """A TorchTrainer without the processes that a lane does not need.

    Its controller runs in the thread that calls `fit`, not in an actor. Of the helper actors the
    one that hands out Ray Data shards is left out, and the one that gives back the placement group
    of a controller that died: the group belongs to this driver and ends with it.
    """

    def __init__(
        self, *arguments: Any, hold: Hold, lost: Callable[[], bool], **options: Any
    ) -> None:
        """`hold` is told what the workers hold; `lost` is called when they are lost, and says
        whether they had worked."""
        super().__init__(*arguments, **options)
        self._lost = lost
        self._loop = asyncio.new_event_loop()
        self._hold = hold
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

        class Workers(_LaneWorkers):
            hold = self._hold

        policies = {
            "scaling_policy": _LanePolicy(self.scaling_config),
            "failure_policy": _LaneFailures(self._lost),
        }
        controller = self._controller = _LaneController(**parts | policies)
        controller.worker_group_cls = Workers
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
    """Starts a lost worker group again, however often, unless it never comes to work."""

    def __init__(self, lost: Callable[[], bool]) -> None:
        super().__init__(ray.train.FailureConfig())
        self._lost, self._in_vain = lost, 0

    def make_decision(self, training_failed_error: TrainingFailedError) -> FailureDecision:
        self._in_vain = 0 if self._lost() else self._in_vain + 1
        return FailureDecision.RETRY if self._in_vain < _STARTS_IN_VAIN else FailureDecision.RAISE


class _Place(DefaultPlacementGroupHandle):
    """A placement group that waits for as long as others hold what it needs, or until a lost node
    is back: Train gives up."""

    def __init__(self, group: PlacementGroup, hold: Hold) -> None:
        super().__init__(group)
        self._hold = hold

    def wait(self, timeout_seconds: float = 0) -> bool:
        """Until it is there; False once the lane is cancelled."""
        while not super().wait(_PATIENCE_S):
            self._hold.waiting = True
            if self._hold.cancelled.wait(0.1):
                return False
        self._hold.begin()
        return True

    def shutdown(self) -> None:
        super().shutdown()
        self._hold.end()


class _LaneWorkers(WorkerGroup):
    """Its workers are not told of a controller's actor: there is none."""

    hold: Hold

    def _create_placement_group(self, scaling_config: Any, context: Any) -> _Place:
        """With the name of the lane, which others read (priorities.py)."""
        group = placement_group(
            [context.resources_per_worker] * context.num_workers,
            strategy=context.placement_strategy,
            bundle_label_selector=context.label_selector,
            name=self._train_run_context.run_config.name,
        )
        return _Place(group, self.hold)

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
        while len(ray.wait(said, num_returns=len(said), timeout=1)[0]) < len(said):
            if self.hold.cancelled.is_set():  # nobody else ends a wait for a slow machine
                raise WorkerGroupStartupTimeoutError(len(workers))
        ray.get(said)
        self._decorate_worker_log_file_paths(workers)


class _LaneController(TrainController):
    worker_group_cls = _LaneWorkers

    async def _step(self) -> Any:
        """Starting workers, after a failure again, awaits nothing: `cancel` would go unheard."""
        await asyncio.sleep(0)
        return await super()._step()
