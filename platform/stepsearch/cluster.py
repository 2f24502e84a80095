"""The Ray cluster: start or join it, ask what it has, refuse what it cannot give."""

from __future__ import annotations

import logging
import math
import os
import socket
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from stepsearch.config import Config
from stepsearch.door import check_token, on_loopback, own_folder, own_token, reread_credentials
from stepsearch.errors import StepsearchError, UserError
from stepsearch.shipping import lacking, runtime_env

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
    min_workers: int | None = Field(
        None, ge=1, description="as few as a lane takes where there is no room for all; none: all"
    )
    cpus: float = Field(1.0, gt=0, description="CPUs a worker")
    gpus: float | None = Field(
        None, ge=0, description="GPUs a worker, a fraction only with one worker; none: 1 if any"
    )

    @model_validator(mode="after")
    def _no_more_than_all(self) -> LanesConfig:
        if self.min_workers is not None and self.min_workers > self.workers:
            raise ValueError(
                f"min_workers must be at most workers ({self.workers}), got {self.min_workers}"
            )
        return self

    @property
    def fewer(self) -> tuple[int, ...]:
        """What a lane may have instead of `workers`, the most first: they share a batch evenly
        that so many share."""
        fewest = self.min_workers or self.workers
        return tuple(n for n in range(self.workers - 1, fewest - 1, -1) if self.workers % n == 0)


@dataclass(frozen=True)
class LaneShape:
    """A LanesConfig resolved against a cluster."""

    count: int
    workers: int
    cpus: float
    gpus: float
    fewer: tuple[int, ...] = ()
    """What a lane may have instead of `workers`, where there is no room for all."""

    @property
    def worker_resources(self) -> dict[str, float]:
        """What one Ray Train worker asks for."""
        return {"CPU": self.cpus} | ({"GPU": self.gpus} if self.gpus else {})


@contextmanager
def connect(
    address: str = "local", cpus: int | None = None, code: Sequence[str] = ()
) -> Iterator[None]:
    """Start a local Ray cluster (`local`) or join the one at `address`; leave it at the end.

    A local one is this process's alone: it listens on loopback, and answers only to a token that
    nobody else has. An existing one is joined with the credentials in the environment; if one of
    its nodes has not the packages of `code` as they are here, they are sent to all workers. A
    process that is connected already stays so: its caller decides when to leave.
    Raises UserError if there is no cluster at `address`, or if it asks for another token.
    """
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    import ray

    for name in ("ray", "ray.tune", "ray.train"):  # the view tells what matters
        logging.getLogger(name).setLevel(logging.CRITICAL)
    if ray.is_initialized():
        yield
        return
    try:
        _start(cpus) if address == "local" else _join(address, code)
        yield
    finally:
        ray.shutdown()
        reread_credentials()


def _start(cpus: int | None) -> None:
    """Start a cluster. Raises StepsearchError."""
    import ray

    try:
        with on_loopback(), own_token():
            ray.init(
                "local",
                num_cpus=cpus,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
                _temp_dir=str(own_folder() / "ray"),
            )
    except UserError:
        raise
    except Exception as error:  # Ray raises a bare one, e.g. when its processes start too slowly
        raise StepsearchError(f"Ray did not start: {_first_line(error)}") from error


def _join(address: str, code: Sequence[str]) -> None:
    """Join a cluster. Raises UserError."""
    from ray.exceptions import AuthenticationError

    reread_credentials()
    try:
        _check_reachable(os.environ.get("RAY_ADDRESS", "") if address == "auto" else address)
        if address != "auto":  # Ray finds the token of that by itself
            check_token(address)
        # Ray would look for a loopback cluster on this machine's network address.
        with on_loopback() if address.startswith("127.0.0.1:") else nullcontext():
            _init(address, code)
    except Exception as error:
        if isinstance(error, AuthenticationError) or isinstance(
            error.__cause__, AuthenticationError
        ):
            raise UserError(
                f"cluster {address!r} must be given its token: set RAY_AUTH_MODE=token and "
                f"RAY_AUTH_TOKEN, or RAY_AUTH_TOKEN_PATH to a file that holds it"
            ) from None
        raise UserError(
            f"cluster must be `local`, `auto` or the address of a running Ray cluster, "
            f"got {address!r}: {_first_line(error)}"
        ) from None


def _init(address: str, code: Sequence[str]) -> None:
    """Twice where code has to be sent: only who is connected can ask the nodes what they have."""
    import ray

    quietly: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    ray.init(address, **quietly)
    if code and lacking(code):
        ray.shutdown()
        ray.init(address, runtime_env=runtime_env(code), **quietly)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


@contextmanager
def connecting(address: str = "local", code: Sequence[str] = ()) -> Iterator[Future[None]]:
    """`connect` in the background, since Ray takes seconds; the future says when it is there.

    The thread lives as long as the connection: what Ray has started dies with the thread that
    started it (PR_SET_PDEATHSIG).
    """
    with ThreadPoolExecutor(1, thread_name_prefix="connect") as pool, ExitStack() as connection:
        future = pool.submit(connection.enter_context, connect(address, code=code))
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


def log_folder() -> Path:
    """Where Ray's processes on this node write what they log."""
    from ray._private.worker import _global_node  # nothing public says it

    return Path(_global_node.get_logs_dir_path())


def draining_nodes() -> set[str]:
    """The ids of the nodes that are about to go: a spot instance's notice, `ray drain-node`."""
    from ray._private.state import state  # what Ray Train reads as well; nothing public says it

    return set(state.get_draining_nodes())


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
    wanted = lanes.count or 1
    for workers in (lanes.workers, *lanes.fewer):
        whole = min(
            _lanes_that_fit(have_cpus, lanes.cpus, workers),
            _lanes_that_fit(have_gpus, gpus, workers) if gpus else math.inf,
        )
        room = int(lanes.share * whole + 1e-9)
        if wanted <= room:
            break
    else:
        part = "the cluster" if lanes.share == 1 else f"{lanes.share:g} of the cluster"
        raise UserError(
            f"lanes must fit into {part}: {wanted} x {workers} workers need "
            f"{wanted * workers * lanes.cpus:g} CPUs and {wanted * workers * gpus:g} GPUs, it has "
            f"{lanes.share * have_cpus:g} CPUs and {lanes.share * have_gpus:g} GPUs"
        )
    return LaneShape(lanes.count or room, lanes.workers, lanes.cpus, gpus, lanes.fewer)


def _lanes_that_fit(have: float, a_worker: float, workers: int) -> int:
    """Whole lanes in `have`; a fractional worker never spans two devices."""
    slots = int(have) * int(1 / a_worker + 1e-9) if a_worker < 1 else int(have / a_worker + 1e-9)
    return slots // workers
