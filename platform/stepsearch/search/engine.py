"""The engine: Ray Tune runs the trials, a few resident Ray Train worker groups train them.

    Ray Tune ── LaneTrial ──┐                 ┌── lane 0: the workers of a TorchTrainer
    (one actor a trial      ├── Dispatcher ───┤
     at a time, reused)     ┘                 └── lane 1: the workers of a TorchTrainer

A lane is started once and trains one trial after another, so that a trial costs what its training
costs: no process is started and nothing is imported for it.
"""

from __future__ import annotations

import os
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from types import TracebackType

import ray
from ray import tune
from ray.exceptions import RayError
from ray.tune.execution import class_cache
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from stepsearch.bucket import S3Url
from stepsearch.cluster import LaneShape, draining_nodes
from stepsearch.errors import StepsearchError
from stepsearch.search.agenda import Agenda
from stepsearch.search.carrier import Carrier
from stepsearch.search.config import SearchConfig
from stepsearch.search.dispatcher import Dispatcher
from stepsearch.search.folder import SearchFolder
from stepsearch.search.hold import Hold
from stepsearch.search.lane import Lane
from stepsearch.search.priorities import lanes_in_want
from stepsearch.search.recorder import Recorder
from stepsearch.search.schedulers import replay, trial_scheduler
from stepsearch.search.searcher import CutOff, StudySearcher
from stepsearch.search.trainable import LaneTrial
from stepsearch.search.trial import Trial
from stepsearch.study import Proposal, TrialRecord

_GOING_HOME_S = 30.0
_CANCELLED_S = 5.0
_A_TRIALS_ACTOR = {"cpu": 0, "memory": 1_000_000}
"""It waits and needs no CPU, but Ray Tune refuses a trial that asks for nothing at all."""

# What Ray Tune hands to its actors stands in Ray's logs; ours have no use for these.
class_cache.ENV_VARS_TO_PROPAGATE.difference_update(
    {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SECURITY_TOKEN", "AWS_SESSION_TOKEN"}
)


class Engine:
    """The lanes of a search and Ray Tune on top of them; lanes start when it is entered."""

    def __init__(self, config: SearchConfig, shape: LaneShape, folder: SearchFolder) -> None:
        self._config, self._shape, self._folder = config, shape, folder
        self._stopping = threading.Event()  # a pause outlives a restart
        self._lanes: list[Lane] = []
        self.full: str | None = None
        """Why the search paused itself, if its storage takes no more."""

    def __enter__(self) -> Engine:
        self._name = f"stepsearch-{self._config.name}-{uuid.uuid4().hex[:8]}"
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        actor = ray.remote(Dispatcher).options(
            name=self._name, num_cpus=0, scheduling_strategy=here, max_concurrency=1000
        )
        config, shape = self._config, self._shape
        self._dispatcher = actor.remote(config.retries, shape.count, config.primary.name)
        if self.paused:  # while another dispatcher was there
            self._dispatcher.pause.remote()
        self._cut_off, self._draining = threading.Event(), set[str]()
        held = [hold.seconds for hold in self.holds] or [0.0] * shape.count
        storage = config.storage if isinstance(config.storage, S3Url) else None
        carrier = Carrier(storage, config.name)
        self._lanes = [
            Lane(
                i,
                config.trainer,
                self._dispatcher,
                shape,
                self._folder.lanes,
                carrier,
                config.lanes.priority,
                held[i],
            )
            for i in range(shape.count)
        ]
        for lane in self._lanes:
            lane.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Wait until the lanes have left; end them where `run` did not come to its end, and those
        that still wait for CPUs."""
        for lane in self._lanes:
            if kind is not None or not lane.hold.up:
                lane.cancel()
        self._await_lanes(_GOING_HOME_S if kind is None else _CANCELLED_S)
        for lane in filter(Lane.is_alive, self._lanes):  # that never came to work
            lane.cancel()
        self._await_lanes(_CANCELLED_S)
        ray.kill(self._dispatcher)

    def _await_lanes(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        for lane in self._lanes:
            lane.join(max(0.0, deadline - time.monotonic()))

    def restart(self) -> None:
        """Begin anew with another dispatcher and other lanes; then `run` again."""
        for lane in self._lanes:
            lane.cancel()
        self.__exit__(None, None, None)
        self.__enter__()

    @property
    def paused(self) -> bool:
        return self._stopping.is_set()

    def run(
        self,
        agenda: Agenda,
        recorder: Recorder,
        make_trial: Callable[[Proposal], Trial],
        past: Sequence[TrialRecord],
    ) -> bool:
        """Run the agenda's trials to the end, or until `pause`; `past` are those before.

        False: the engine is broken, and what is left has to be run after a `restart`.
        Raises StepsearchError when a trial could not be begun or recorded.
        """
        config = self._config
        searcher = StudySearcher(
            agenda,
            recorder,
            make_trial,
            self._dispatcher,
            self._name,
            self._open_lanes,
            self._stopping,
            self._cut_off,
        )
        scheduler = trial_scheduler(config.trial_scheduler, config.budget, config.primary)
        for record in past:
            replay(scheduler, record.number, record.intermediate, config.primary.name)
        if not self._is_ready():
            return False
        tune.Tuner(
            tune.with_resources(LaneTrial, _A_TRIALS_ACTOR),
            tune_config=tune.TuneConfig(
                search_alg=searcher,
                scheduler=scheduler,
                num_samples=-1,  # the searcher says when it is over
                max_concurrent_trials=self._shape.count,
                reuse_actors=True,
            ),
            run_config=tune.RunConfig(
                name=f"{os.getpid()}-{self._name[-8:]}",
                storage_path=str(self._folder.tune),
                failure_config=tune.FailureConfig(max_failures=-1),  # of the trial's actor
                stop=CutOff(self._cut_off),
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
                verbose=0,
            ),
        ).fit()
        self._dispatcher.close.remote()  # the lanes leave while the driver closes its books
        if searcher.failure is not None:
            raise StepsearchError(
                "the search was stopped, a trial could not be begun or recorded: "
                f"{searcher.failure} (`resume {config.name}` goes on with it)"
            ) from searcher.failure
        self.full = self._ask_if_full()
        return not self._cut_off.is_set()

    def pause(self) -> None:
        """Let every trial save a checkpoint and end as interrupted; `run` returns then."""
        self._stopping.set()
        self._dispatcher.pause.remote()  # unheard: a second Ctrl-C may end everything meanwhile

    def has_begun(self) -> bool:
        """Wait for the first step of a trial; False when there will be none."""
        try:
            return bool(ray.get(self._dispatcher.begun.remote()))
        except RayError:
            return False

    @property
    def holds(self) -> list[Hold]:
        """What each lane holds."""
        return [lane.hold for lane in self._lanes]

    def make_room(self) -> int:
        """Send lanes home, at the end of their trials, for those of a higher priority that wait;
        the last one stays. Returns how many wait."""
        wanted, up = lanes_in_want(self._config.lanes.priority), sum(h.up for h in self.holds)
        self._dispatcher.keep.remote(max(1, up - wanted) if wanted else self._shape.count)
        return wanted

    def _open_lanes(self) -> int:
        """How many trials may run now. Without any lane left they are given out to fail."""
        if not any(lane.is_alive() for lane in self._lanes):
            return self._shape.count
        return sum(hold.up for hold in self.holds)

    def watch(self) -> dict[int, int]:
        """`images_seen` of the trials that are on a lane; to be called every second or so.

        Meanwhile a lane that hangs is started anew, and one whose node is about to go vacated.
        """
        cut_off, dispatcher = self._cut_off, self._dispatcher  # `restart` may replace both
        try:
            if (nodes := draining_nodes()) != self._draining:
                self._draining = nodes
                dispatcher.vacate.remote(nodes)
            for lane in ray.get(dispatcher.silent.remote(self._config.watchdog_s)):
                self._lanes[lane].restart(f"no sign of life for {self._config.watchdog_s:g} s")
            seen: dict[int, int] = ray.get(dispatcher.progress.remote())
        except RayError:
            cut_off.set()
            return {}
        return seen

    def _ask_if_full(self) -> str | None:
        try:
            reason: str | None = ray.get(self._dispatcher.full.remote())
        except RayError:
            return None
        return reason

    def _is_ready(self) -> bool:
        """Wait until a lane asks for its first trial: Tune's actors would be in its way."""
        try:
            ray.get(self._dispatcher.ready.remote())
        except RayError:
            return False
        return True
