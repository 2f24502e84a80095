"""What this machine has for a search, asked without starting Ray."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from stepsearch.cluster import resources


def local_resources() -> dict[str, float]:
    """CPUs and GPUs as a local Ray cluster counts them, limits of a container included."""
    import ray
    import torch
    from ray._private.utils import get_num_cpus  # nothing public says it before ray.init

    if ray.is_initialized():
        return resources()
    cpus = float(get_num_cpus(override_docker_cpu_warning=True))
    return {"CPU": cpus, "GPU": float(torch.cuda.device_count())}


def free_bytes(path: Path) -> int:
    """Free space on the disk where `path` lies or would lie."""
    return shutil.disk_usage(existing(path)).free


def existing(path: Path) -> Path:
    """The path itself, or the nearest folder above it that exists."""
    return path if path.exists() else existing(path.parent)


@contextmanager
def probe_file(folder: Path) -> Iterator[Path]:
    """A small file in `folder` for as long as the block lasts. Raises OSError if it cannot be."""
    path = folder / f".stepsearch-{uuid.uuid4().hex}"
    path.write_text(path.name)
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)
