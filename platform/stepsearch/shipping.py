"""The code that a search needs, and whether the nodes of a cluster have the same."""

from __future__ import annotations

import hashlib
import importlib.util
import shutil
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

_TIMEOUT_S = 60.0


def packages_of(*objects: Any) -> tuple[str, ...]:
    """The packages that a process must import to work with `objects`, stepsearch first."""
    homes = (type(each).__module__.partition(".")[0] for each in objects)
    return tuple(dict.fromkeys(("stepsearch", *(home for home in homes if home != "__main__"))))


def place(package: str) -> Path | None:
    """The folder of an importable package, or the file of a module; None where there is none."""
    spec = importlib.util.find_spec(package)
    if spec is None:
        return None
    if spec.submodule_search_locations:
        return Path(spec.submodule_search_locations[0])
    return Path(spec.origin) if spec.has_location and spec.origin else None


def fingerprint(package: str) -> str:
    """A hash of the package's Python files: two checkouts can have one version."""
    found = place(package)
    files = sorted(found.rglob("*.py")) if found and found.is_dir() else [found] if found else []
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.name.encode() + file.read_bytes())
    return digest.hexdigest()[:8]


def fingerprints(packages: Sequence[str]) -> list[str]:
    return [fingerprint(package) for package in packages]


def lacking(packages: Sequence[str]) -> bool:
    """Whether a node of the cluster that this process has joined lacks one of the packages, or has
    another version of it, or does not answer."""
    import ray

    tasks = _ask(packages)
    ready, late = ray.wait(tasks, num_returns=len(tasks), timeout=_TIMEOUT_S)
    try:
        found = ray.get(ready)
    except Exception:  # whatever keeps a worker of ours from running there
        return True
    here = fingerprints(packages)
    return bool(late) or any(there != here for there in found)


def _ask(packages: Sequence[str]) -> list[Any]:
    """A task on each node. This file is sent along, since the node may not have it."""
    import ray
    from ray import cloudpickle
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = sys.modules[__name__]
    task = ray.remote(fingerprints)
    cloudpickle.register_pickle_by_value(here)
    try:
        return [
            task.options(
                num_cpus=0,
                max_retries=0,
                scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False),
            ).remote(packages)
            for node in ray.nodes()
            if node["Alive"]
        ]
    finally:
        cloudpickle.unregister_pickle_by_value(here)


def runtime_env(packages: Iterable[str]) -> dict[str, Any]:
    """What makes Ray send the packages to every worker of this process."""
    paths = [str(found) for found in map(place, packages) if found]
    return {"py_modules": paths, "excludes": ["__pycache__"]}


def copy(packages: Iterable[str], to: Path) -> None:
    """The packages side by side in the folder `to`, from where Python imports them."""
    for found in filter(None, map(place, packages)):
        if found.is_dir():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(found, to / found.name, ignore=ignored)
        else:
            shutil.copy(found, to)
