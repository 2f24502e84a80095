"""A data set's parts on a Ray cluster: an actor each, for as long as they are asked."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from stepsearch.cluster import connect, resources
from stepsearch.diffusion.stages.sharded import Everywhere, Read, Shard
from stepsearch.errors import StepsearchError, UserError
from stepsearch.shipping import packages_of

_TIMEOUT_S = 60.0


@contextmanager
def sharded(
    read: Read,
    workers: int | None,
    *,
    address: str = "local",
    signed: bool,
    device: str,
    memory: int,
) -> Iterator[Everywhere]:
    """Shards on the cluster at `address`, with a CPU each, and a GPU where `device` is one.

    `read` is called on each; workers None: as many as the cluster has of these. Raises UserError
    if there is no cluster, or where they do not fit; what a shard raises, a call of it raises.
    """
    import ray

    needs = {"CPU": 1} | ({"GPU": 1} if device.startswith("cuda") else {})
    with connect(address, code=packages_of()):
        count = _fitting(workers, needs)
        with _room(count, needs) as room:
            actor = ray.remote(Shard).options(
                num_cpus=1, num_gpus=needs.get("GPU", 0), scheduling_strategy=room
            )
            options = {"signed": signed, "device": device, "memory": memory}
            actors = [actor.remote(read, part, count, **options) for part in range(count)]
            yield _everywhere(actors)


def _fitting(workers: int | None, needs: dict[str, int]) -> int:
    """How many workers; Ray would wait for ever for those that do not fit."""
    have = resources()
    room = min(int(have.get(name, 0)) for name in needs)
    if not 0 < (workers or 1) <= room:
        total = ", ".join(f"{have.get(name, 0):g} {name}s" for name in needs)
        raise UserError(
            f"workers must be at most {room} with one {' and one '.join(needs)} each on a cluster"
            f" of {total}, got {workers or 1}"
        )
    return workers or room


@contextmanager
def _room(count: int, needs: dict[str, int]) -> Iterator[Any]:
    """What the workers need, spread over the nodes; whatever is in it ends with the block."""
    from ray.util import placement_group, remove_placement_group
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    group = placement_group([needs] * count, strategy="SPREAD")
    try:
        if not group.wait(_TIMEOUT_S):
            raise UserError(
                f"workers must be at most what is free on the cluster, got {count}: there was no"
                f" room for {_TIMEOUT_S:g} s"
            )
        yield PlacementGroupSchedulingStrategy(group)
    finally:
        remove_placement_group(group)


def _everywhere(actors: list[Any]) -> Everywhere:
    import ray
    from ray.exceptions import RayError, RayTaskError

    def call(method: Callable[..., Any], *args: Any, **kwargs: Any) -> list[Any]:
        sent = [ray.put(each) for each in args]
        methods = [getattr(actor, method.__name__) for actor in actors]
        try:
            return list(ray.get([remote.remote(*sent, **kwargs) for remote in methods]))
        except RayTaskError as error:
            if isinstance(error.cause, StepsearchError):
                raise error.cause from None
            raise
        except RayError as error:
            reason = str(error).strip().splitlines()[0]
            raise StepsearchError(f"a worker was lost: {reason}") from None

    return call
