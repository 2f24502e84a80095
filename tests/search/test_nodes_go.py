"""Several nodes on this machine: they die, are taken away, or lack the storage."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from stepsearch.search.result import SearchResult
from tests.conftest import Server
from tests.search.conftest import Drive, Small, wait_for_reports
from tests.search.test_faults import LONG, check_nothing_is_lost
from tests.store import BUCKET, Store

pytestmark = [pytest.mark.slow]


class Nodes:
    """A cluster of several nodes on this machine; see several_nodes.py."""

    def __init__(self, *head: str) -> None:
        script = Path(__file__).parent / "several_nodes.py"
        self._process = subprocess.Popen(
            [sys.executable, str(script), *head],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.address = self._answer()

    def do(self, command: str) -> None:
        assert self._ask(command) == "done", f"the cluster could not {command}"

    def wait_for_trainers(self, node: int, count: int) -> None:
        """Until so many Ray Train workers run on the node."""
        deadline = time.monotonic() + 120
        while (there := int(self._ask(f"trainers {node}"))) != count:
            assert time.monotonic() < deadline, f"{there} Train workers on node {node}"
            time.sleep(0.1)

    def close(self) -> None:
        self._process.communicate(timeout=60)

    def _ask(self, command: str) -> str:
        assert self._process.stdin is not None
        print(command, file=self._process.stdin, flush=True)
        return self._answer()

    def _answer(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()


@pytest.fixture
def nodes() -> Iterator[Nodes]:
    cluster = Nodes()
    cluster.do("add 1")
    yield cluster
    cluster.close()


CAN_MOUNT = shutil.which("unshare") is not None and os.geteuid() == 0


def test_a_trial_leaves_a_node_that_is_to_go(small: Small, drive: Drive, nodes: Nodes) -> None:
    nodes.do("add 1")
    config = small(budget=LONG, trial_scheduler={"kind": "fifo"}, retries=1)
    driver = drive(config, "run", "FILE", "--address", nodes.address)
    wait_for_reports(config.folder, 2)
    nodes.wait_for_trainers(2, 1)
    nodes.do("drain 2 3600")
    nodes.wait_for_trainers(2, 0)
    assert driver.poll() is None, "they left because of the notice, an hour before its end"
    output, _ = driver.communicate(timeout=480)
    assert driver.returncode == 0, output
    check_nothing_is_lost(SearchResult.read(config.resolved()), config.budget.milestones())


def test_a_trial_goes_on_from_the_bucket_when_its_node_dies(
    small: Small, drive: Drive, store: Store, server: Server, nodes: Nodes, tmp_path: Path
) -> None:
    """On a node that has not a file in common with it, where there may be one."""
    machine = tmp_path / "machine"
    machine.mkdir()
    nodes.do(f"blind 1 {machine}" if CAN_MOUNT else "add 1")
    config = small(
        storage=f"s3://{BUCKET}/team",
        tracking={"uri": server.uri},
        budget=LONG,
        trial_scheduler={"kind": "fifo"},
        retries=1,
    )
    driver = drive(config, "run", "FILE", "--address", nodes.address)
    wait_for_reports(config.folder, 3)
    nodes.wait_for_trainers(1, 1)
    nodes.do("kill 1")
    output, _ = driver.communicate(timeout=480)
    assert driver.returncode == 0, output
    result, milestones = SearchResult.read(config.resolved()), config.budget.milestones()
    check_nothing_is_lost(result, milestones)
    for record in result.records:
        losses = store.read(f"team/{config.name}/trials/{record.number:03d}/loss.jsonl")
        seen = [json.loads(line)["images_seen"] for line in losses.splitlines()]
        assert set(seen) <= set(milestones)
        assert seen.count(milestones[0]) == 1, "no trial begins anew"


def test_a_lane_goes_on_with_fewer_workers_when_a_node_dies(
    small: Small, drive: Drive, nodes: Nodes
) -> None:
    nodes.do("add 1")
    lanes = {"count": 1, "workers": 2, "min_workers": 1}
    config = small(budget=LONG, trial_scheduler={"kind": "fifo"}, retries=1, lanes=lanes)
    driver = drive(config, "run", "FILE", "--address", nodes.address)
    wait_for_reports(config.folder, 2)
    nodes.wait_for_trainers(1, 1)
    nodes.wait_for_trainers(2, 1)
    nodes.do("kill 2")
    output, _ = driver.communicate(timeout=480)
    assert driver.returncode == 0, output
    check_nothing_is_lost(SearchResult.read(config.resolved()), config.budget.milestones())


def test_a_storage_that_a_node_does_not_see_is_refused(
    small: Small, drive: Drive, nodes: Nodes, tmp_path: Path
) -> None:
    if not CAN_MOUNT:
        pytest.skip("needs a mount namespace: run it as root, with util-linux")
    storage = tmp_path / "storage"
    storage.mkdir()
    nodes.do(f"blind 1 {storage}")
    driver = drive(small(storage=storage, cluster=nodes.address), "run", "FILE")
    output, _ = driver.communicate(timeout=120)
    assert driver.returncode == 2, output
    rule = f"error: storage must be a folder that all nodes share, got {str(storage)!r}: node "
    assert rule in output
    assert output.rstrip().endswith("does not see it")
    assert list(storage.iterdir()) == []
