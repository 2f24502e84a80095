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

MAX_BYTES = 256 * 1024
"""A search file has one or two thousand bytes."""
MAX_DEPTH = 20
_TOO_DEEP = f"must not be nested deeper than {MAX_DEPTH}"


class _Loader(yaml.SafeLoader):
    """YAML without what a few lines can swell with: aliases, and nesting without end."""

    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise ValueError("must be written without aliases (*name)")
        if self.depth == MAX_DEPTH:
            raise ValueError(_TOO_DEEP)
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


class _Dumper(yaml.SafeDumper):
    """YAML that `_Loader` reads."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file that holds a mapping. Raises UserError for anything else."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise UserError(
            f"FILE must be a file that can be read, got {str(path)!r}: {error.strerror}"
        ) from None
    if len(content) > MAX_BYTES:
        raise UserError(f"FILE must have at most {MAX_BYTES} bytes, got more in {str(path)!r}")
    try:
        data = _load(content.decode())
    except ValueError as error:
        raise UserError(f"FILE must be YAML, got {str(path)!r}: {error}") from None
    if not isinstance(data, dict):
        raise UserError(f"FILE must hold a mapping, got {type(data).__name__} in {str(path)!r}")
    return data


def _load(text: str) -> Any:
    """Plain data. Raises ValueError with one line."""
    try:
        return yaml.load(text, _Loader)  # noqa: S506 (a safe loader)
    except Exception as error:  # besides its own, whatever a value like !!int x makes Python raise
        raise ValueError(" ".join(str(error).split()) or type(error).__name__) from None


def dump_yaml(config: Config) -> str:
    """A configuration as YAML that `parse` reads back."""
    return to_yaml(config.model_dump(mode="json"))


def to_yaml(data: Mapping[str, Any]) -> str:
    """YAML in the order of the keys."""
    return yaml.dump(dict(data), Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def assignments(sets: Sequence[str]) -> dict[str, Any]:
    """`a.b=1` as {"a": {"b": 1}}; values are YAML. Raises UserError for anything else."""
    data: dict[str, Any] = {}
    for text in sets:
        path, sign, value = text.partition("=")
        keys = path.split(".")
        if not sign or not all(keys):
            raise UserError(f"--set must be KEY=VALUE, got {text!r}")
        if len(keys) > MAX_DEPTH:
            raise UserError(f"--set {_TOO_DEEP}, got {len(keys)} keys")
        try:
            nested: Any = _load(value)
        except ValueError:
            raise UserError(f"--set {path} must be YAML, got {value!r}") from None
        for key in reversed(keys):
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
        scratch.write_text(text, encoding="utf-8")
        scratch.replace(path)
    finally:
        with suppress(OSError):
            scratch.unlink()
