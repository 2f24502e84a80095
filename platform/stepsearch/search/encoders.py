"""Encoding on a Ray cluster: each actor takes one shard of pictures after another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from stepsearch.cluster import connect, resources
from stepsearch.diffusion.autoencoder import Autoencoder
from stepsearch.diffusion.datasets.shards import (
    Encoded,
    Encoder,
    Pixels,
    Results,
    Run,
    Shard,
)
from stepsearch.errors import StepsearchError, UserError
from stepsearch.shipping import packages_of

_RETRIES = 3
"""Of a shard whose node is lost; each restarts its actor elsewhere."""


def encode_on_ray(address: str, workers: int | None, batch_size: int) -> Run:
    """By `workers` actors of the cluster at `address`, or as many as it has GPUs, or CPUs.

    They get the autoencoder and the pixels through Ray and write nothing: only this machine needs
    the files. Raises UserError without such a cluster, StepsearchError when an actor is lost for
    good.
    """

    def run(
        autoencoder: Autoencoder, todo: Sequence[Shard], read: Callable[[Shard], Pixels]
    ) -> Results:
        if not todo:
            return
        with connect(address, code=packages_of()):
            import ray
            from ray.exceptions import RayError
            from ray.util import ActorPool

            gpus, count = _fit(workers, resources())
            actor = ray.remote(_Actor).options(
                num_cpus=1, num_gpus=gpus, max_restarts=_RETRIES, max_task_retries=_RETRIES
            )
            held = [ray.put(autoencoder)]
            pool = ActorPool([actor.remote(batch_size) for _ in range(min(count, len(todo)))])
            try:
                yield from pool.map_unordered(
                    lambda encoder, shard: encoder.encode.remote(held, shard, read(shard)), todo
                )
            except RayError as error:
                cause = getattr(error, "cause", error)
                if isinstance(cause, UserError):
                    raise cause from None
                reason = str(cause).splitlines()[0]
                raise StepsearchError(
                    f"an encoder has failed, the same command goes on: {reason}"
                ) from error

    return run


class _Actor:
    """An encoder that gets its autoencoder with its first shard, also where it has restarted."""

    def __init__(self, batch_size: int) -> None:
        self._batch_size = batch_size
        self._encoder: Encoder | None = None

    def encode(self, held: list[Any], shard: Shard, pixels: Pixels) -> Encoded:
        """`held` is a list so that Ray does not bring what it refers to with every shard."""
        import ray

        if self._encoder is None:
            self._encoder = Encoder(ray.get(held[0]), self._batch_size)
        return self._encoder.encode(shard, pixels)


def _fit(workers: int | None, cluster: dict[str, float]) -> tuple[int, int]:
    """GPUs an actor, and how many actors there are. Raises UserError if they do not fit."""
    kind = "GPU" if cluster.get("GPU") else "CPU"
    room = int(cluster.get(kind, 0))
    if not 1 <= (workers or room) <= room:
        raise UserError(f"--workers must be at most {room}, the cluster's {kind}s, got {workers}")
    return int(kind == "GPU"), workers or room
