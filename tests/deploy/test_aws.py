"""The cluster launcher's file, as `ray up` reads it."""

from __future__ import annotations

import logging

import pytest
import yaml

from tests.deploy.conftest import DEPLOY, ROOT


def test_the_launcher_takes_the_file(caplog: pytest.LogCaptureFixture) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    caplog.set_level(logging.CRITICAL)
    config = prepare_config(yaml.safe_load((DEPLOY / "aws.yaml").read_text()))
    validate_config(config)
    head, workers = (
        config["available_node_types"]["head"],
        config["available_node_types"]["workers"],
    )
    assert config["head_node_type"] == "head"
    assert head["resources"] == {"CPU": 0}
    assert workers["min_workers"] == workers["max_workers"] == config["max_workers"]
    assert "InstanceMarketOptions" not in head["node_config"], "the head must not be taken away"


def test_every_node_has_the_token_and_the_pinned_packages() -> None:
    config = yaml.safe_load((DEPLOY / "aws.yaml").read_text())
    assert config["file_mounts"]["/home/ubuntu/.ray/auth_token"] == "~/.ray/auth_token"
    assert any("RAY_AUTH_MODE=token" in line for line in config["initialization_commands"])
    assert any("-c ~/stepsearch/constraints.txt" in line for line in config["setup_commands"])
    assert (ROOT / "constraints.txt").is_file()
    for start in ("head_start_ray_commands", "worker_start_ray_commands"):
        assert not any("0.0.0.0" in line for line in config[start])
