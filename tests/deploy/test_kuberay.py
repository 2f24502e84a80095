"""The manifests for KubeRay, as Kubernetes and the operator read them."""

from __future__ import annotations

import json
import lzma
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from tests.deploy.conftest import DEPLOY, ROOT

KUBERNETES = "1.30"
MANIFESTS = DEPLOY / "kuberay"
SCHEMAS = Path(__file__).parent / "kuberay"


def read(name: str, without_gpus: bool = False) -> Any:
    lines = (MANIFESTS / name).read_text().splitlines()
    kept = [line for line in lines if not (without_gpus and line.endswith("# GPU"))]
    return yaml.safe_load("\n".join(kept))


def cluster(manifest: Any) -> Any:
    return manifest["spec"].get("rayClusterSpec", manifest["spec"])


def pods(manifest: Any) -> list[Any]:
    """The templates of the head, the workers and, of a job, the submitter."""
    ray = cluster(manifest)
    templates = [ray["headGroupSpec"], *ray["workerGroupSpecs"]]
    submitter = manifest["spec"].get("submitterPodTemplate")
    return [group["template"] for group in templates] + ([submitter] if submitter else [])


@pytest.fixture(params=["raycluster.yaml", "rayjob.yaml"])
def manifest(request: pytest.FixtureRequest) -> Any:
    return read(request.param)


@pytest.mark.parametrize("without_gpus", [False, True], ids=["GPU", "CPU"])
@pytest.mark.parametrize("name", ["raycluster.yaml", "rayjob.yaml"])
def test_every_pod_is_one_that_kubernetes_knows(name: str, without_gpus: bool) -> None:
    manifest = read(name, without_gpus)
    for template in pods(manifest):
        pod = {"apiVersion": "v1", "kind": "Pod", **template}
        kubernetes_validate.validate(pod, KUBERNETES, strict=True)
    (worker,) = cluster(manifest)["workerGroupSpecs"]
    (container,) = worker["template"]["spec"]["containers"]
    asks_gpus = "nvidia.com/gpu" in container["resources"]["limits"]
    assert asks_gpus is not without_gpus
    assert ("tolerations" in worker["template"]["spec"]) is asks_gpus


def test_the_storage_and_the_policy_are_ones_that_kubernetes_knows() -> None:
    claim, policy = yaml.safe_load_all((MANIFESTS / "storage.yaml").read_text())
    for resource in (claim, policy):
        kubernetes_validate.validate(resource, KUBERNETES, strict=True)
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    selected = policy["spec"]["podSelector"]["matchLabels"]
    for name in ("raycluster.yaml", "rayjob.yaml"):
        assert all(template["metadata"]["labels"] == selected for template in pods(read(name)))


@pytest.mark.parametrize("name", ["raycluster", "rayjob"])
def test_the_manifests_are_ones_that_kuberay_knows(name: str) -> None:
    """By the schema of v1 in helm-chart/kuberay-operator/crds of github.com/ray-project/kuberay,
    v1.7.0 (Apache 2.0), as JSON and without its descriptions."""
    schema = json.loads(lzma.decompress((SCHEMAS / f"{name}.json.xz").read_bytes()))
    manifest = read(f"{name}.yaml")
    jsonschema.validate(manifest, schema)
    assert list(unknown(manifest, schema)) == []


def unknown(data: Any, schema: Any, where: str = "") -> Iterator[str]:
    """The fields that the schema does not name: Kubernetes would drop them."""
    if isinstance(data, list):
        for item in data:
            yield from unknown(item, schema["items"], where)
    elif isinstance(data, dict) and "properties" in schema:
        for key, value in data.items():
            if key in schema["properties"]:
                yield from unknown(value, schema["properties"][key], f"{where}.{key}")
            else:
                yield f"{where}.{key}"


def test_all_nodes_run_one_image_and_see_one_storage(manifest: Any) -> None:
    containers = [c for template in pods(manifest) for c in template["spec"]["containers"]]
    assert len({container["image"] for container in containers}) == 1
    data = {"name": "data", "mountPath": "/data"}
    assert all(data in container["volumeMounts"] for container in containers[:2])
    pinned = re.search(r"^ray==(.+)$", (ROOT / "constraints.txt").read_text(), flags=re.MULTILINE)
    assert pinned is not None
    assert cluster(manifest)["rayVersion"] == pinned[1]


def test_ray_asks_for_a_token_and_is_not_exposed(manifest: Any) -> None:
    ray = cluster(manifest)
    assert ray["authOptions"] == {"mode": "token"}
    assert ray["headGroupSpec"]["serviceType"] == "ClusterIP"
    assert not ray.get("enableInTreeAutoscaling")
    secrets = ["MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "PGPASSWORD"]
    head = ray["headGroupSpec"]["template"]["spec"]["containers"][0]
    given = {variable["name"]: variable for variable in head["env"]}
    named = {given[name]["valueFrom"]["secretKeyRef"]["name"] for name in secrets}
    assert named == {"stepsearch-logins"}, "the operator keeps the token under the cluster's name"


def test_a_job_can_be_started_again_and_gives_its_cluster_back() -> None:
    job, standing = read("rayjob.yaml"), read("raycluster.yaml")
    assert "\n" not in job["spec"]["entrypoint"]
    words = job["spec"]["entrypoint"].split()
    assert words[:4] == ["python", "/opt/stepsearch/run_search.py", "run", "/search/search.yaml"]
    assert "--resume" in words
    assert job["spec"]["backoffLimit"] > 0
    assert job["spec"]["shutdownAfterJobFinishes"] is True
    assert job["spec"]["rayClusterSpec"] == standing["spec"], "one cluster, written down twice"
