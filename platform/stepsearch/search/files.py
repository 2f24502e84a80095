"""What people write and read: YAML files, `--set` assignments, JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from stepsearch.config import Config, merge
from stepsearch.errors import UserError


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file that holds a mapping. Raises UserError for anything else."""
    try:
        data = yaml.safe_load(path.read_text())
    except OSError as error:
        raise UserError(
            f"FILE must be a file that can be read, got {str(path)!r}: {error.strerror}"
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"FILE must be YAML, got {str(path)!r}: {reason}") from None
    if not isinstance(data, dict):
        raise UserError(f"FILE must hold a mapping, got {type(data).__name__} in {str(path)!r}")
    return data


def dump_yaml(config: Config) -> str:
    """A configuration as YAML that `parse` reads back."""
    return to_yaml(config.model_dump(mode="json"))


def to_yaml(data: Mapping[str, Any]) -> str:
    """YAML in the order of the keys."""
    return yaml.safe_dump(dict(data), sort_keys=False, allow_unicode=True)


def assignments(sets: Sequence[str]) -> dict[str, Any]:
    """`a.b=1` as {"a": {"b": 1}}; values are YAML. Raises UserError for anything else."""
    data: dict[str, Any] = {}
    for text in sets:
        path, sign, value = text.partition("=")
        if not sign or not all(path.split(".")):
            raise UserError(f"--set must be KEY=VALUE, got {text!r}")
        try:
            nested: Any = yaml.safe_load(value)
        except yaml.YAMLError:
            raise UserError(f"--set {path} must be YAML, got {value!r}") from None
        for key in reversed(path.split(".")):
            nested = {key: nested}
        data = merge(data, nested)
    return data


def write_json(path: Path, data: Mapping[str, Any]) -> None:
    """Write all of it or nothing. Raises UserError if the file cannot be written."""
    try:
        replace(path, json.dumps(data) + "\n")
    except OSError as error:
        raise UserError(
            f"--json must be a file that can be written, got {str(path)!r}: {error.strerror}"
        ) from None


def replace(path: Path, text: str) -> None:
    """Write a file anew, all of it or nothing. Raises OSError."""
    scratch = path.parent / f".{path.name}.part"
    try:
        scratch.write_text(text)
        scratch.replace(path)
    finally:
        with suppress(OSError):
            scratch.unlink()
