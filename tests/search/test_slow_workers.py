"""A lane whose workers do not come up: a machine that is too busy to start them."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest
import ray
from ray.train.v2._internal.exceptions import WorkerGroupStartupTimeoutError
from ray.train.v2._internal.execution.worker_group import Worker

from stepsearch.search.hold import Hold
from stepsearch.search.lane_trainer import _LaneWorkers

pytestmark = pytest.mark.usefixtures("ray_cluster")


class Slow:
    """Stands for Train's actor, whose imports take as long as it pleases."""

    def init_train_context(self, **parts: Any) -> None:
        time.sleep(600)


@pytest.fixture
def workers(ray_cluster: None) -> Any:
    actor = ray.remote(Slow).options(num_cpus=0).remote()  # type: ignore[attr-defined]
    yield [Worker(actor=actor, metadata=None, resources={})]  # type: ignore[arg-type]
    ray.kill(actor)


def test_a_cancelled_lane_does_not_wait_for_them(workers: Any) -> None:
    group = object.__new__(_LaneWorkers)
    group.hold = Hold()
    group._train_run_context = group._storage_context = None
    group._worker_callbacks_to_propagate = []
    threading.Timer(2, group.hold.cancelled.set).start()
    began = time.monotonic()
    with pytest.raises(WorkerGroupStartupTimeoutError):
        group._init_train_context_on_workers(workers, None, {})
    assert 1 < time.monotonic() - began < 30
