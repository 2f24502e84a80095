"""Lanes: Ray Train worker groups that stay up and train one trial after another."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
import ray.train
import ray.train.collective
from ray import cloudpickle
from ray.exceptions import RayError

from stepsearch.bucket import Refused
from stepsearch.cluster import LaneShape
from stepsearch.errors import Diverged, OutOfMemory, UserError, storage_is_full
from stepsearch.search.carrier import Carrier
from stepsearch.search.dispatcher import DIED
from stepsearch.search.hold import Hold
from stepsearch.search.job import Group
from stepsearch.search.lane_trainer import LaneTrainer
from stepsearch.search.priorities import lane_name, lanes_in_want
from stepsearch.search.trial import Run, Trainer, Trial

if TYPE_CHECKING:
    from stepsearch.diffusion.workers import Workers

_OTHERS_FIRST_S = 2.0


class Lane(threading.Thread):
    """Keeps one trainer running until the dispatcher sends it home.

    Sent home before the search is over, it comes back when no search of a higher priority waits.

    Ray Train restarts the worker group when a worker or its node dies; the new group asks the
    dispatcher and goes on with the trial that was lost.
    """

    def __init__(
        self,
        number: int,
        trainer: Trainer,
        dispatcher: Any,
        shape: LaneShape,
        folder: Path,
        carrier: Carrier,
        priority: int = 0,
        held_s: float = 0.0,
    ) -> None:
        """`held_s` is how long its predecessor has held what it needs."""
        super().__init__(name=f"lane-{number}", daemon=True)
        self.hold = Hold(held_s)
        self._number, self._priority, self._dispatcher = number, priority, dispatcher
        self._cancelled = False
        self._reason = DIED
        data = trainer.facts().fingerprint
        self._new_trainer: Callable[[], LaneTrainer] = lambda: LaneTrainer(
            _work,
            lost=self._lost,
            train_loop_config={
                "lane": number,
                "trainer": cloudpickle.dumps(trainer),  # opened by the lane's workers
                "data": data,
                "dispatcher": dispatcher,
                "carrier": cloudpickle.dumps(carrier),
                "threads": max(1, int(shape.cpus)),
            },
            scaling_config=ray.train.ScalingConfig(
                num_workers=shape.workers,
                use_gpu=shape.gpus > 0,
                resources_per_worker=shape.worker_resources,
            ),
            run_config=ray.train.RunConfig(
                name=lane_name(number, priority),
                storage_path=str(folder),
            ),
            hold=self.hold,
            sizes=(shape.workers, *shape.fewer),
        )
        self._trainer = self._new_trainer()

    def run(self) -> None:
        try:
            self._trainer.fit()
            while self._comes_back():
                self._trainer = self._new_trainer()
                self._trainer.fit()
        except (asyncio.CancelledError, SystemExit):  # Ray raises the latter when it is shut down
            return
        except Exception as error:
            if self._cancelled:
                return
            self._dispatcher.lose.remote(f"Ray Train gave up a lane: {_cause(error)}")

    def restart(self, reason: str) -> None:
        """End the lane's workers, whatever they do, and start others; why goes to their trial."""
        self._reason = reason
        self._trainer.kill_workers()

    def _comes_back(self) -> bool:
        """False when the search is over; else the lane made room for others: wait for them."""
        while not self._cancelled and not ray.get(self._dispatcher.closed.remote()):
            if not lanes_in_want(self._priority):
                return True
            self.hold.cancelled.wait(_OTHERS_FIRST_S)
        return False

    def cancel(self) -> None:
        """End the lane's workers at once, whatever they do; `join` waits for it.

        A lane that is still starting its workers notices within seconds.
        """
        self._cancelled = True
        self.hold.cancelled.set()
        self._trainer.cancel()

    def _lost(self) -> bool:
        reason, self._reason = self._reason, DIED
        try:
            return bool(ray.get(self._dispatcher.drop.remote(self._number, reason)))
        except RayError:  # the dispatcher is gone too
            return False


def _cause(error: Exception) -> str:
    """What went wrong, in one line: of the workers' tracebacks the last one's end."""
    failures = list(getattr(error, "worker_failures", {}).values())
    lines = str(failures[-1] if failures else error).strip().splitlines()
    return lines[-1].strip() if lines else type(error).__name__


class _LaneReport:
    """The `Report` of a trial on a lane."""

    def __init__(
        self, dispatcher: Any, group: Group, number: int, rank: int, carrier: Carrier
    ) -> None:
        self._dispatcher, self._trial, self._rank = dispatcher, (group, number), rank
        self._carrier, self._images_seen = carrier, 0

    def __call__(self, metrics: Mapping[str, float]) -> bool:
        images_seen = int(metrics["images_seen"])
        self.save()
        said = dict(metrics) if self._rank == 0 else None
        return bool(ray.get(self._dispatcher.report.remote(*self._trial, said, images_seen)))

    def progress(self, images_seen: int) -> bool:
        self._images_seen = images_seen
        return bool(ray.get(self._dispatcher.tick.remote(*self._trial, images_seen)))

    def alive(self) -> None:
        """A sign of life while the storage is waited for."""
        self.progress(self._images_seen)

    def save(self) -> None:
        """Bring what the trainer has written here to the storage: most write on rank 0 only."""
        self._carrier.save(self.alive)


def _work(config: dict[str, Any]) -> None:
    """The Ray Train loop of one worker: take a trial, train it, ask for the next."""
    import torch

    from stepsearch.diffusion.workers import Workers

    os.environ["TQDM_DISABLE"] = "1"
    torch.set_num_threads(config["threads"])
    logging.getLogger("ray.train").setLevel(logging.ERROR)
    context = ray.train.get_context()
    incarnation = ray.train.collective.broadcast_from_rank_zero(uuid.uuid4().hex)
    workers = Workers(
        context.get_world_rank(), context.get_world_size(), ray.train.torch.get_device()
    )
    trainer, index = cloudpickle.loads(config["trainer"]), 0
    trainer.warm_up()
    _check_data(trainer, config["data"])
    dispatcher, group = config["dispatcher"], (config["lane"], incarnation)
    carrier = cloudpickle.loads(config["carrier"])
    carrier.worker = f"{config['lane']}-{workers.rank}"
    node = ray.get_runtime_context().get_node_id()
    while sealed := ray.get(dispatcher.next_trial.remote(group, index, node)):
        trial = cloudpickle.loads(sealed)
        report = _LaneReport(dispatcher, group, trial.number, workers.rank, carrier)
        outcome, reason, error = _train(trainer.run, trial, report, workers, carrier)
        ray.get(dispatcher.leave.remote(group, trial.number, outcome, reason))
        if error is not None:  # Ray Train builds a new worker group, with fresh processes
            raise error
        index += 1
    carrier.clear()


def _check_data(trainer: Trainer, data: str) -> None:
    """Raise UserError unless this worker reads the data set that the driver has read."""
    if trainer.facts().fingerprint != data:
        raise UserError(
            "trainer.dataset must be on every node what it was where and when the search began, "
            f"got other images, labels or another split on {ray.util.get_node_ip_address()}"
        )


def _train(
    run: Run, trial: Trial, report: _LaneReport, workers: Workers, carrier: Carrier
) -> tuple[str | None, str | None, Exception | None]:
    """Run one trial; how it ended, why, and the error if it was an unexpected one."""
    try:
        here = carrier.bring(trial, report.alive)
        try:
            run(here, report, workers)
        finally:
            report.save()
    except Refused as error:
        return "full", str(error), None
    except Diverged as error:
        return "diverged", str(error), None
    except OutOfMemory as error:
        return "again" if error.again else "out_of_memory", str(error), error
    except Exception as error:
        if full := storage_is_full(error):
            return "full", f"{full.strerror}: {trial.folder}", None
        return "error", f"{type(error).__name__}: {error}".splitlines()[0], error
    return None, None, None
