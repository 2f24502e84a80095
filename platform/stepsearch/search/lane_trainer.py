"""A TorchTrainer that needs few processes: its controller is a thread of the driver.

Ray Train has no public way to say this, so private parts of it (Ray 2.60) are replaced here, and
nowhere else.
"""

from __future__ import annotations

import asyncio
import time
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
from ray.train.v2._internal.execution.scaling_policy import (
    FixedScalingPolicy,
    ResizeDecision,
    ScalingDecision,
)
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
_TRIED_S = 10.0
"""How long a lane waits for room for so many workers where it may have fewer."""


class LaneTrainer(TorchTrainer):
    """A TorchTrainer without the processes that a lane does not need.

    Its controller runs in the thread that calls `fit`, not in an actor. Of the helper actors the
    one that hands out Ray Data shards is left out, and the one that gives back the placement group
    of a controller that died: the group belongs to this driver and ends with it.
    """

    def __init__(
        self,
        *arguments: Any,
        hold: Hold,
        lost: Callable[[], bool],
        sizes: tuple[int, ...],
        **options: Any,
    ) -> None:
        """`hold` is told what the workers hold; `lost` is called when they are lost, and says
        whether they had worked; `sizes` are how many of them there may be, the most first."""
        super().__init__(*arguments, **options)
        self._lost, self._size = lost, _Size(sizes)
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
            hold, size = self._hold, self._size

        policies = {
            "scaling_policy": _LanePolicy(self.scaling_config, self._size),
            "failure_policy": _LaneFailures(self._lost, self._size),
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


class _Size:
    """How many workers a lane asks for: the most, and fewer where there is no room for so many."""

    def __init__(self, sizes: tuple[int, ...]) -> None:
        self._sizes, self._at = sizes, 0
        self._tries_another = False

    @property
    def workers(self) -> int:
        return self._sizes[self._at]

    def enough(self, seconds: float) -> bool:
        """Whether it has waited so long that another number is tried, which is the next one."""
        if len(self._sizes) == 1 or seconds < _TRIED_S:
            return False
        self._at = (self._at + 1) % len(self._sizes)
        self._tries_another = True
        return True

    def tries_another(self) -> bool:
        """Whether a start ended for that reason, since it was asked the last time."""
        tries, self._tries_another = self._tries_another, False
        return tries

    def found(self) -> float:
        """There is room for them: they are this share of the most, which is asked for first when
        they are lost."""
        share, self._at = self.workers / self._sizes[0], 0
        return share


class _LanePolicy(FixedScalingPolicy):
    """A policy without Train's coordinator, one more actor that imports Ray Data: the autoscaler
    hears of a lane by its placement group. Train's elastic policy asks that actor for room."""

    def __init__(self, config: ray.train.ScalingConfig, size: _Size) -> None:
        super().__init__(config)
        self._size = size

    def make_decision_for_non_running_worker_group(self) -> ScalingDecision:
        each = self.scaling_config._resources_per_worker_not_none
        return ResizeDecision(self._size.workers, each)

    def after_controller_start(self, train_run_context: Any) -> None:
        """Nothing: there is no coordinator."""

    def _maybe_send_resource_request(self) -> None:
        """Nothing: there is nobody to send it to."""


class _LaneFailures(FailurePolicy):
    """Starts a lost worker group again, however often, unless it never comes to work."""

    def __init__(self, lost: Callable[[], bool], size: _Size) -> None:
        super().__init__(ray.train.FailureConfig())
        self._lost, self._size, self._in_vain = lost, size, 0

    def make_decision(self, training_failed_error: TrainingFailedError) -> FailureDecision:
        if self._size.tries_another():
            return FailureDecision.RETRY
        self._in_vain = 0 if self._lost() else self._in_vain + 1
        return FailureDecision.RETRY if self._in_vain < _STARTS_IN_VAIN else FailureDecision.RAISE


class _Place(DefaultPlacementGroupHandle):
    """A placement group that waits for as long as others hold what it needs, or until a lost node
    is back, unless there may be fewer workers: Train gives up."""

    def __init__(self, group: PlacementGroup, hold: Hold, size: _Size) -> None:
        super().__init__(group)
        self._hold, self._size = hold, size

    def wait(self, timeout_seconds: float = 0) -> bool:
        """Until it is there; False once the lane is cancelled, or tries another number of
        workers."""
        since = time.monotonic()
        while not super().wait(_PATIENCE_S):
            self._hold.waiting = True
            if self._hold.cancelled.wait(0.1) or self._size.enough(time.monotonic() - since):
                return False
        self._hold.begin(self._size.found())
        return True

    def shutdown(self) -> None:
        super().shutdown()
        self._hold.end()


class _LaneWorkers(WorkerGroup):
    """Its workers are not told of a controller's actor: there is none."""

    hold: Hold
    size: _Size

    def _create_placement_group(self, scaling_config: Any, context: Any) -> _Place:
        """With the name of the lane, which others read (priorities.py)."""
        group = placement_group(
            [context.resources_per_worker] * context.num_workers,
            strategy=context.placement_strategy,
            bundle_label_selector=context.label_selector,
            name=self._train_run_context.run_config.name,
        )
        return _Place(group, self.hold, self.size)

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
