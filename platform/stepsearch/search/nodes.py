"""The nodes of a cluster: whether each has what the driver has, and sees what it sees."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from rich.filesize import decimal

from stepsearch.cluster import connect
from stepsearch.errors import UserError
from stepsearch.search.probe import read
from stepsearch.shipping import fingerprint, packages_of
from stepsearch.tracking.reach import obstacle

_TIMEOUT_S = 60.0
_COMPARED = ("ray", "torch")


@dataclass(frozen=True)
class Finding:
    """What the doctor found: if it is not ok, `says` ends in what to do."""

    ok: bool
    what: str
    says: str


@dataclass(frozen=True)
class Equipment:
    """What one machine has, seen from one of its processes."""

    versions: dict[str, str]
    """Of Python and the packages that all nodes must have alike; stepsearch's source as well."""
    cuda: bool
    """Whether its torch was built for GPUs."""
    free_bytes: int
    probe: str | None
    """What the probe says; None where it is not seen."""
    why: str = ""
    """Why a bucket is not seen."""
    mlflow: str | None = None
    """What keeps it from the MLflow server that was named."""


def examine_cluster(
    address: str, probe: Path | str = "", server: str | None = None
) -> list[Finding]:
    """Start or join the cluster and look around on each node.

    `probe` lies in the storage, `server` is the MLflow server's address.
    """
    try:
        with connect(address, code=packages_of()):
            return list(_examine(str(probe), server))
    except (UserError, RuntimeError) as error:  # RuntimeError: the cluster has another Ray
        return [Finding(False, "cluster", str(error).splitlines()[0])]


def _examine(probe: str, server: str | None) -> Iterator[Finding]:
    """Every node is asked at the same time, by a task that needs no CPU."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    nodes = [node for node in ray.nodes() if node["Alive"]]
    total = ray.cluster_resources()
    has = f"{total.get('CPU', 0):g} CPUs and {total.get('GPU', 0):g} GPUs"
    yield Finding(True, "cluster", f"{has} on {len(nodes)} node{'s' * (len(nodes) > 1)}")
    look = ray.remote(look_around)
    tasks = [
        look.options(
            num_cpus=0,
            max_retries=0,
            scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False),
        ).remote(probe, server)
        for node in nodes
    ]
    ready, _ = ray.wait(tasks, num_returns=len(tasks), timeout=_TIMEOUT_S)
    here = look_around(probe, server)
    for node, task in zip(nodes, tasks, strict=True):
        name, gpus = f"node {node['NodeManagerAddress']}", node["Resources"].get("GPU", 0)
        if task not in ready:
            yield Finding(False, name, f"did not answer in {_TIMEOUT_S:g} s: ray status")
            continue
        try:
            there = ray.get(task)
        except Exception as error:  # whatever keeps a worker of ours from running there
            reason = str(error).strip().splitlines()[-1]
            yield Finding(False, name, f"cannot run stepsearch ({reason}): install it there too")
            continue
        yield from compare(name, here, there, gpus, server)


def look_around(probe: str, server: str | None = None) -> Equipment:
    """The equipment of the machine that runs this."""
    folder, (seen, why) = Path(probe).parent, _look_for(probe)
    return Equipment(
        versions={"python": ".".join(map(str, sys.version_info[:3]))}
        | {name: _version(name) for name in _COMPARED}
        | {"stepsearch's source": fingerprint("stepsearch")},
        cuda=_has_cuda(),
        free_bytes=shutil.disk_usage(folder if folder.exists() else "/").free,
        probe=seen,
        why=why,
        mlflow=obstacle(server) if server else None,
    )


def _look_for(probe: str) -> tuple[str | None, str]:
    try:
        return read(probe), ""
    except UserError as error:
        return None, str(error)


def compare(
    name: str, here: Equipment, there: Equipment, gpus: float = 0, server: str | None = None
) -> Iterator[Finding]:
    """One line for a node that is as the driver, or one for each thing that is not.

    That it does not reach MLflow is told and nothing to mend: only a search's driver records.
    """
    problems = [
        f"has {what} {there.versions[what]} and the driver {mine}: install the driver's there"
        for what, mine in here.versions.items()
        if there.versions[what] != mine
    ]
    if gpus and not there.cuda:
        problems.append("has GPUs and a torch without CUDA: install the CUDA build of torch there")
    if there.why:
        problems.append(f"cannot use the storage: {there.why}")
    elif there.probe != here.probe:
        problems.append("does not see the storage: name a folder that all nodes share")
    yield from (Finding(False, name, problem) for problem in problems)
    if not problems:
        sees = "sees the storage, " if there.probe else ""
        free = f"{decimal(there.free_bytes)} free"
        yield Finding(True, name, f"{gpus:g} GPUs, the driver's versions, {sees}{free}")
    if server:
        reaches = f"does not reach MLflow ({there.mlflow}), which only a driver there would need"
        yield Finding(True, name, reaches if there.mlflow else "reaches MLflow")


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "none"


def _has_cuda() -> bool:
    import torch

    return bool(torch.version.cuda or torch.version.hip)
