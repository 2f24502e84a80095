"""What tests of several folders share: one small Ray cluster for the whole run."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from stepsearch import cluster


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """A local cluster with two CPUs."""
    with cluster.connect("local", cpus=2):
        yield
