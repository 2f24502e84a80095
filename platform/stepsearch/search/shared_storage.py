"""A cluster of several nodes needs one storage: every node is asked before anything is trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from stepsearch.errors import UserError
from stepsearch.search.machine import probe_file

_TIMEOUT_S = 60.0


def check_shared(folder: Path) -> None:
    """Raise UserError unless every node that trains sees `folder`, and can write there too."""
    nodes = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]
    here = ray.get_runtime_context().get_node_id()
    others = [node for node in nodes if node["NodeID"] != here]
    if not others:
        return
    with probe_file(folder) as probe:
        tasks = [_ask(node["NodeID"], probe) for node in others]
        for node, task in zip(others, tasks, strict=True):
            problem = _problem(task, _reply(probe, node["NodeID"]))
            if problem is not None:
                raise UserError(
                    f"storage must be a folder that all nodes share, got {str(folder.parent)!r}: "
                    f"node {node['NodeManagerAddress']} {problem}"
                )


def _ask(node: str, probe: Path) -> Any:
    task = ray.remote(answer).options(
        num_cpus=0,
        max_retries=0,
        scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False),
    )
    return task.remote(str(probe), str(_reply(probe, node)))


def answer(probe: str, reply: str) -> None:
    """On another node: read what the driver has written, and write what it will look for."""
    Path(reply).write_text(Path(probe).read_text())


def _reply(probe: Path, node: str) -> Path:
    return probe.with_name(f"{probe.name}-{node[:8]}")


def _problem(task: Any, reply: Path) -> str | None:
    try:
        ray.get(task, timeout=_TIMEOUT_S)
        reply.unlink()
    except FileNotFoundError:  # of the task, or of its reply, which went to a folder of its own
        return "does not see it"
    except GetTimeoutError:
        return f"did not answer in {_TIMEOUT_S:g} s"
    except (RayError, OSError) as error:
        return f"cannot use it ({str(error).strip().splitlines()[-1]})"
    return None
