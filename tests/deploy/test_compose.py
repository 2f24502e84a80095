"""The compose file and the Dockerfile, as far as they can be read without Docker."""

from __future__ import annotations

import re
import shlex
from typing import Any

import jsonschema
import pytest
import yaml
from check_jsonschema.builtin_schemas import get_builtin_schema

from stepsearch.tracking.client import load
from tests.deploy.conftest import DEPLOY, ROOT


@pytest.fixture
def compose() -> Any:
    return yaml.safe_load((DEPLOY / "compose.yaml").read_text())


def test_it_keeps_to_the_compose_specification(compose: Any) -> None:
    jsonschema.validate(compose, get_builtin_schema("vendor.compose-spec"))


def test_no_password_has_a_default(compose: Any) -> None:
    """`${NAME:?...}` is what compose refuses to start without."""
    given = [
        value
        for service in compose["services"].values()
        for name, value in service["environment"].items()
        if "PASSWORD" in name or "SECRET" in name
    ]
    assert len(given) == 6
    assert all(re.fullmatch(r"\$\{[A-Z_0-9]+:\?[^}]+\}", value) for value in given)


def test_only_mlflow_is_reached_from_outside_and_on_loopback_unless_told_otherwise(
    compose: Any,
) -> None:
    services = compose["services"]
    assert [name for name, service in services.items() if "ports" in service] == ["mlflow"]
    assert services["mlflow"]["ports"] == ["${MLFLOW_ADDRESS:-127.0.0.1}:5000:5000"]
    assert compose["networks"]["inside"] == {"internal": True}
    assert services["postgres"]["networks"] == services["store"]["networks"] == ["inside"]


@pytest.mark.filterwarnings("ignore:.*type hint:UserWarning")  # MLflow's own, on import
def test_mlflow_takes_the_command(compose: Any) -> None:
    load()
    from mlflow.cli import server

    program, verb, *words = shlex.split(compose["services"]["mlflow"]["command"])
    assert (program, verb) == ("mlflow", "server")
    options = server.make_context("server", words).params
    assert options["app_name"] == "basic-auth"
    assert options["serve_artifacts"] is True
    assert options["artifacts_destination"] == "s3://mlflow"
    assert options["allowed_hosts"] == "${MLFLOW_ALLOWED_HOSTS:-localhost:5000,127.0.0.1:5000}"


def test_the_image_copies_what_the_package_is_built_from() -> None:
    lines = (DEPLOY / "Dockerfile").read_text().splitlines()
    copied = [words.split()[1:-1] for words in lines if words.startswith("COPY")]
    files = {name for names in copied for name in names}
    assert all((ROOT / name).exists() for name in files)
    shipped = {"run_search.py", "search_spaces", "trainers", "platform"}
    assert shipped | {"pyproject.toml", "README.md", "LICENSE", "constraints.txt"} == files
    installs = [line for line in lines if "pip install" in line]
    assert all("-c /opt/stepsearch/constraints.txt" in line for line in installs)


def test_each_build_target_is_one_of_the_dockerfiles(compose: Any) -> None:
    targets = re.findall(r"^FROM \S+ AS (\S+)$", (DEPLOY / "Dockerfile").read_text(), re.MULTILINE)
    build = compose["services"]["mlflow"]["build"]
    assert build["target"] in targets
    assert (DEPLOY / build["context"] / build["dockerfile"]).is_file()
