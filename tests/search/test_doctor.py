"""The doctor on this machine as it is, and on ailments that are made for it."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from stepsearch.bucket import S3Url
from stepsearch.search import doctor
from stepsearch.search.doctor import Finding, examine
from stepsearch.search.nodes import compare, look_around
from tests.conftest import Server, free_port
from tests.search.conftest import Drive, Small
from tests.search.test_nodes_go import Nodes
from tests.store import BUCKET, Store


def test_a_healthy_machine_gets_one_good_line_for_each_thing(
    ray_cluster: None, tmp_path: Path
) -> None:
    findings = examine("local", tmp_path / "searches")
    assert [finding for finding in findings if not finding.ok] == []
    kinds = [finding.what.split()[0] for finding in findings]
    assert kinds == [
        "python", "packages", "diffusers", "platform", "disk", "storage", "mlflow", "cluster",
        "node",
    ]  # fmt: skip
    assert all("\n" not in finding.says for finding in findings)
    node = findings[-1].says
    assert "the driver's versions" in node
    assert "sees the storage" in node
    assert list(tmp_path.iterdir()) == []


def test_a_storage_that_cannot_be_written_is_found_and_the_rest_examined(
    ray_cluster: None, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    findings = examine("local", tmp_path / "file" / "searches")
    (bad,) = (finding for finding in findings if not finding.ok)
    assert bad.what == "storage"
    assert bad.says == (
        f"{tmp_path / 'file'} cannot be written (Not a directory): name another with --storage"
    )
    assert findings[-1].what.startswith("node")


def test_packages_that_are_missing_or_of_another_version_say_what_to_type() -> None:
    needed = [Requirement(line) for line in ("torch>=2.8", "rich<2", "no-such-package>=1")]
    old, missing = doctor._misfits(needed)
    assert old.what == "rich"
    assert old.says.endswith(f", must be <2: {doctor.INSTALL}")
    assert missing == Finding(False, "no-such-package", f"is not installed: {doctor.INSTALL}")


def test_a_diffusers_that_breaks_on_import_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = "raise RuntimeError('operator torchvision::nms does not exist')"
    (tmp_path / "diffusers.py").write_text(broken)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    finding = doctor._denoiser()
    assert not finding.ok
    assert "RuntimeError: operator torchvision::nms does not exist" in finding.says


def test_a_bucket_is_examined_from_every_node(ray_cluster: None, store: Store) -> None:
    """The cluster was started without the keys that the driver has."""
    findings = {f.what.split()[0]: f for f in examine("local", S3Url(f"s3://{BUCKET}/team"))}
    assert findings["storage"] == Finding(True, "storage", f"s3://{BUCKET}/team can be written")
    assert "mlflow" not in findings
    assert not findings["node"].ok
    assert findings["node"].says.startswith("cannot use the storage: storage must be a bucket")
    wrong = {f.what.split()[0]: f for f in examine("local", S3Url("s3://nowhere/team"))}
    assert not wrong["storage"].ok
    assert wrong["storage"].says.startswith("storage must be a bucket that exists")
    assert wrong["node"].ok
    assert store.names() == set()


def test_a_python_file_in_the_source_root_is_found(tmp_path: Path) -> None:
    root = tmp_path / "platform"
    root.mkdir()
    assert doctor._source_root(root).ok
    (root / "__init__.py").touch()
    assert doctor._source_root(root) == Finding(
        False, "platform", f"shadows the standard library's: rm {root / '__init__.py'}"
    )
    assert doctor._source_root(tmp_path).ok  # an installed package lies beside others' files


def test_a_store_that_does_not_open_is_found(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_text("no database")
    finding = doctor._store(tmp_path)
    assert not finding.ok
    assert finding.says.startswith("tracking.uri must answer, got 'sqlite:///")
    assert "file is not a database" in finding.says


def test_a_cluster_that_cannot_be_joined_is_found() -> None:
    code = (
        "from stepsearch.search.nodes import examine_cluster\n"
        "for finding in examine_cluster('nowhere'): print(finding.ok, finding.what, finding.says)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.startswith("False cluster cluster must be `local`, `auto` or the address")
    assert out.stdout.count("\n") == 1


def test_a_node_is_compared_with_the_driver_thing_by_thing(tmp_path: Path) -> None:
    probe = tmp_path / "probe"
    probe.write_text("seen")
    here = look_around(str(probe))
    assert here.probe == "seen"
    assert [finding.ok for finding in compare("node 1", here, here)] == [True]
    other = {**here.versions, "torch": "1.13.0", "stepsearch's source": "0ther"}
    poor = replace(here, versions=other, probe=None, cuda=False)
    torch, source = here.versions["torch"], here.versions["stepsearch's source"]
    assert [(finding.ok, finding.says) for finding in compare("node 2", here, poor, gpus=4)] == [
        (False, f"has torch 1.13.0 and the driver {torch}: install the driver's there"),
        (False, f"has stepsearch's source 0ther and the driver {source}: "
                "install the driver's there"),
        (False, "has GPUs and a torch without CUDA: install the CUDA build of torch there"),
        (False, "does not see the storage: name a folder that all nodes share"),
    ]  # fmt: skip


TWO_NODES = """
import json, sys
from pathlib import Path
from ray.cluster_utils import Cluster
from stepsearch.search.nodes import examine_cluster

cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
cluster.add_node(num_cpus=1, env_vars={"PYTHONPATH": sys.argv[1]})
findings = examine_cluster(cluster.address, Path(sys.argv[2]))
cluster.shutdown()
print(json.dumps([[finding.ok, finding.says] for finding in findings]))
"""


@pytest.mark.slow
def test_a_node_with_another_stepsearch_is_sent_the_drivers(tmp_path: Path) -> None:
    changed, script, probe = tmp_path / "changed", tmp_path / "two_nodes.py", tmp_path / "probe"
    shutil.copytree(Path(doctor.__file__).parents[1], changed / "stepsearch")
    (changed / "stepsearch" / "an_edit.py").touch()
    script.write_text(TWO_NODES)
    probe.write_text("seen")
    here = {"PYTHONPATH": str(Path(doctor.__file__).parents[2])}
    out = subprocess.run(
        [sys.executable, script, changed, probe],
        env=os.environ | here | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64},
        capture_output=True,
        text=True,
        check=True,
    )
    total, *nodes = json.loads(out.stdout.splitlines()[-1])
    assert total == [True, "2 CPUs and 0 GPUs on 2 nodes"]
    assert [ok for ok, _ in nodes] == [True, True]
    assert all("the driver's versions" in says for _, says in nodes)


@pytest.fixture
def far(tmp_path: Path) -> Iterator[tuple[str, str, str]]:
    """A network namespace, this machine's address in it, and its own."""
    name, (x, y) = f"far{os.getpid()}", divmod(os.getpid() % 16384, 64)
    here, there = f"198.18.{x}.{4 * y + 1}", f"198.18.{x}.{4 * y + 2}"
    commands = [
        f"netns add {name}",
        f"link add {name}a type veth peer name {name}b netns {name}",
        f"address add {here}/30 dev {name}a",
        f"link set {name}a up",
        f"-n {name} address add {there}/30 dev {name}b",
        f"-n {name} link set {name}b up",
        f"-n {name} link set lo up",
    ]
    try:
        for command in commands:
            ip = shutil.which("ip") or "/bin/false"
            if subprocess.run([ip, *command.split()], capture_output=True).returncode:
                pytest.skip("needs a network namespace: run it as root, with iproute2")
        yield name, here, there
    finally:
        subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)


@pytest.mark.slow
def test_a_node_that_does_not_reach_mlflow_is_told_and_nothing_to_mend(
    far: tuple[str, str, str], server: Server, drive: Drive, small: Small, tmp_path: Path
) -> None:
    """MLflow listens on this machine's loopback."""
    namespace, here, there = far
    nodes = Nodes(here)
    nodes.do(f"far 1 {namespace} {there}")
    storage = ("--storage", str(tmp_path / "searches"))
    command = ("doctor", "--address", nodes.address, "--tracking", server.uri, *storage)
    said, _ = (doctor := drive(small(), *command)).communicate(timeout=120)
    nodes.close()
    lines = said.splitlines()
    assert f"ok   mlflow: {server.uri} answers" in lines
    assert f"ok   node {here}: reaches MLflow" in lines
    refused = "does not reach MLflow (Connection refused), which only a driver there would need"
    assert f"ok   node {there}: {refused}" in lines
    assert doctor.returncode == 0, said


def test_an_mlflow_that_does_not_answer_the_driver_is_to_be_mended() -> None:
    finding = doctor._answers(f"http://127.0.0.1:{free_port()}")
    assert not finding.ok
    assert finding.says.startswith("tracking.uri must answer, got 'http://127.0.0.1:")
    assert "refused" in finding.says
