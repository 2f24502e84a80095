"""The Ray cluster: start or join it, ask what it has, refuse what it cannot give."""

from __future__ import annotations

import logging
import math
import os
import socket
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from pydantic import Field

from stepsearch.config import Config
from stepsearch.errors import StepsearchError, UserError

# Set before Ray is imported, here and in every process that Ray starts.
_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "RAY_ENABLE_AUTO_CONNECT": "0",  # or a late call would start a second cluster
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_TRAIN_ENABLE_CONTROLLER_STRUCTURED_LOGGING": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "1",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DEDUP_LOGS": "0",
    "RAY_enable_metrics_collection": "0",  # nobody reads them
    "REPORTER_UPDATE_INTERVAL_MS": "600000",
    "RAY_task_events_report_interval_ms": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",
}


class LanesConfig(Config):
    """How many trials run side by side, and what each may use.

    A lane is one Ray Train worker group that stays up for the whole search and takes one trial
    after another.
    """

    count: int | None = Field(None, ge=1, description="lanes; none: as many as the share fits")
    share: float = Field(1.0, gt=0, le=1, description="the part of the cluster for this search")
    priority: int = Field(
        0, ge=0, le=9, description="searches of a lower one give lanes back while this one waits"
    )
    workers: int = Field(1, ge=1, description="Ray Train workers of one lane")
    cpus: float = Field(1.0, gt=0, description="CPUs a worker")
    gpus: float | None = Field(
        None, ge=0, description="GPUs a worker, a fraction only with one worker; none: 1 if any"
    )


@dataclass(frozen=True)
class LaneShape:
    """A LanesConfig resolved against a cluster."""

    count: int
    workers: int
    cpus: float
    gpus: float

    @property
    def worker_resources(self) -> dict[str, float]:
        """What one Ray Train worker asks for."""
        return {"CPU": self.cpus} | ({"GPU": self.gpus} if self.gpus else {})


@contextmanager
def connect(address: str = "local", cpus: int | None = None) -> Iterator[None]:
    """Start a local Ray cluster (`local`) or join the one at `address`; leave it at the end.

    A process that is connected already stays so: its caller decides when to leave.
    Raises UserError if there is no cluster at `address`.
    """
    local = address == "local"
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    if local:  # on loopback; said explicitly, or a stale token of another cluster decides
        os.environ["RAY_AUTH_MODE"] = "disabled"
    import ray

    for name in ("ray", "ray.tune", "ray.train"):  # the view tells what matters
        logging.getLogger(name).setLevel(logging.CRITICAL)
    if ray.is_initialized():
        yield
        return
    try:
        _check_reachable(address)
        ray.init(
            address=address,
            num_cpus=cpus if local else None,
            include_dashboard=False if local else None,
            log_to_driver=False,
            logging_level=logging.ERROR,
            configure_logging=True,
        )
    except (OSError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"cluster must be `local`, `auto` or the address of a running Ray cluster, "
            f"got {address!r}: {reason}"
        ) from None
    except Exception as error:  # Ray raises a bare one, e.g. when its processes start too slowly
        raise StepsearchError(f"Ray did not start: {str(error).splitlines()[0]}") from error
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def connecting(address: str = "local") -> Iterator[Future[None]]:
    """`connect` in the background, since Ray takes seconds; the future says when it is there.

    The thread lives as long as the connection: what Ray has started dies with the thread that
    started it (PR_SET_PDEATHSIG).
    """
    with ThreadPoolExecutor(1, thread_name_prefix="connect") as pool, ExitStack() as connection:
        future = pool.submit(connection.enter_context, connect(address))
        try:
            yield future
        finally:
            wait([future])


def _check_reachable(address: str) -> None:
    """Ray itself would try for minutes. Raises OSError when nobody listens at `host:port`."""
    host, colon, port = address.partition(":")
    if colon and port.isdigit():
        socket.create_connection((host, int(port)), timeout=10).close()


def resources() -> dict[str, float]:
    """What the whole cluster has, busy or not: Ray's resource totals."""
    import ray

    return dict(ray.cluster_resources())


def fit_lanes(lanes: LanesConfig, cluster: dict[str, float]) -> LaneShape:
    """Resolve how many lanes of which shape fit into the share of `cluster` (Ray's totals).

    Raises UserError with the numbers when not even one lane fits, or when more lanes are asked for
    than fit: Ray would wait for ever.
    """
    have_cpus, have_gpus = cluster.get("CPU", 0.0), cluster.get("GPU", 0.0)
    gpus = lanes.gpus if lanes.gpus is not None else (1.0 if have_gpus else 0.0)
    if gpus % 1 and (lanes.workers > 1 or gpus > 1):
        raise UserError(
            f"lanes.gpus may be a fraction below 1 only with lanes.workers 1, "
            f"got gpus {gpus} with workers {lanes.workers}"
        )
    whole = min(
        _lanes_that_fit(have_cpus, lanes.cpus, lanes.workers),
        _lanes_that_fit(have_gpus, gpus, lanes.workers) if gpus else math.inf,
    )
    room = int(lanes.share * whole + 1e-9)
    if (lanes.count or 1) > room:
        part = "the cluster" if lanes.share == 1 else f"{lanes.share:g} of the cluster"
        raise UserError(
            f"lanes must fit into {part}: {lanes.count or 1} x {lanes.workers} workers need "
            f"{(lanes.count or 1) * lanes.workers * lanes.cpus:g} CPUs and "
            f"{(lanes.count or 1) * lanes.workers * gpus:g} GPUs, it has "
            f"{lanes.share * have_cpus:g} CPUs and {lanes.share * have_gpus:g} GPUs"
        )
    return LaneShape(lanes.count or room, lanes.workers, lanes.cpus, gpus)


def _lanes_that_fit(have: float, a_worker: float, workers: int) -> int:
    """Whole lanes in `have`; a fractional worker never spans two devices."""
    slots = int(have) * int(1 / a_worker + 1e-9) if a_worker < 1 else int(have / a_worker + 1e-9)
    return slots // workers
