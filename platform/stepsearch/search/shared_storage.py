"""A cluster of several nodes needs one storage: every node is asked before anything is trained."""

from __future__ import annotations

from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from stepsearch.bucket import S3Url
from stepsearch.config import Place
from stepsearch.errors import UserError
from stepsearch.search.probe import probing, read, remove, write

_TIMEOUT_S = 60.0


def check_shared(place: Place) -> None:
    """Raise UserError unless every node that trains sees the search's `place`, and can write there
    too."""
    nodes = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]
    here = ray.get_runtime_context().get_node_id()
    others = [node for node in nodes if node["NodeID"] != here]
    if not others:
        return
    with probing(place) as probe:
        tasks = [_ask(node["NodeID"], probe) for node in others]
        for node, task in zip(others, tasks, strict=True):
            problem = _problem(task, _reply(probe, node["NodeID"]))
            if problem is not None:
                kind = "bucket" if isinstance(place, S3Url) else "folder"
                raise UserError(
                    f"storage must be a {kind} that all nodes share, "
                    f"got {str(place).rpartition('/')[0]!r}: "
                    f"node {node['NodeManagerAddress']} {problem}"
                )


def _ask(node: str, probe: str) -> Any:
    task = ray.remote(answer).options(
        num_cpus=0,
        max_retries=0,
        scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False),
    )
    return task.remote(probe, _reply(probe, node))


def answer(probe: str, reply: str) -> None:
    """On another node: read what the driver has written, and write what it will look for."""
    found = read(probe)
    if found is not None:
        write(reply, found)


def _reply(probe: str, node: str) -> str:
    return f"{probe}-{node[:8]}"


def _problem(task: Any, reply: str) -> str | None:
    try:
        ray.get(task, timeout=_TIMEOUT_S)
        if read(reply) is None:  # nothing was found, or the reply went to a folder of its own
            return "does not see it"
        remove(reply)
    except GetTimeoutError:
        return f"did not answer in {_TIMEOUT_S:g} s"
    except (RayError, OSError) as error:
        return f"cannot use it ({str(error).strip().splitlines()[-1]})"
    return None
