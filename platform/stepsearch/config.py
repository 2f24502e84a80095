"""One base class for every configuration, and one-line messages for what is wrong with one."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from stepsearch.errors import UserError

C = TypeVar("C", bound="Config")

_TYPES = {
    "int_type": "an integer",
    "int_parsing": "an integer",
    "int_from_float": "an integer",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "string_type": "a string",
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "path_type": "a path",
}


class Config(BaseModel):
    """A frozen configuration that refuses unknown keys; it lives beside the code it configures."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def parse(model: type[C], data: Any, where: str = "") -> C:
    """Validate `data` (a mapping) as `model`; `where` is the path shown before each field's name.

    Raises UserError with one line: the rule, the value and, where there are any, the choices.
    """
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise UserError(_explain(model, error, where)) from None


def _explain(model: type[BaseModel], error: ValidationError, where: str) -> str:
    first = error.errors()[0]
    path = _path(first["loc"], where)
    kind, value, context = first["type"], first["input"], first.get("ctx", {})
    if kind == "extra_forbidden":
        return _unknown_key(model, first["loc"], path)
    if kind == "missing":
        return f"{path} is required"
    if kind in _TYPES:
        return f"{path} must be {_TYPES[kind]}, got {value!r}"
    if kind in ("literal_error", "enum"):
        return f"{path} must be one of {context['expected']}, got {value!r}"
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        tag = context.get("tag", "nothing")
        choices = context.get("expected_tags", "")
        return f"{path}.kind must be one of {choices or 'the known kinds'}, got {tag!r}"
    if kind == "value_error":
        message = str(context["error"])
        return message if message.startswith(path) else f"{path}: {message}" if path else message
    rule = first["msg"].removeprefix("Input should ").removeprefix("be ")
    return f"{path} must be {rule}, got {value!r}"


def _path(loc: tuple[int | str, ...], where: str) -> str:
    parts = [where] if where else []
    parts += [str(part) for part in loc if part != "__root__"]
    return ".".join(parts)


def _unknown_key(model: type[BaseModel], loc: tuple[int | str, ...], path: str) -> str:
    owner = _owner(model, loc[:-1])
    keys = sorted(owner.model_fields) if owner else []
    close = difflib.get_close_matches(str(loc[-1]), keys, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    known = f" (known keys: {', '.join(keys)})" if keys else ""
    return f"{path} is not a known key{hint}{known}"


def _owner(model: type[BaseModel], loc: tuple[int | str, ...]) -> type[BaseModel] | None:
    """The model that holds the key behind `loc`, through fields, unions and union tags."""
    candidates: list[type[BaseModel]] = [model]
    for part in loc:
        fields = [m.model_fields[part].annotation for m in candidates if part in m.model_fields]
        if fields:
            candidates = [m for field in fields for m in _models(field)]
        else:  # a union's tag: keep the member whose `kind` carries it
            candidates = [m for m in candidates if _has_kind(m, part)] or candidates
    return candidates[0] if candidates else None


def _models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [m for part in getattr(annotation, "__args__", ()) for m in _models(part)]


def _has_kind(model: type[BaseModel], tag: int | str) -> bool:
    field = model.model_fields.get("kind")
    return field is not None and tag in getattr(field.annotation, "__args__", ())


def merge(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of `base` with `changes` laid over it, mapping by mapping.

    A mapping that names another `kind` replaces the old one instead of mixing two kinds' keys.
    """
    merged = dict(base)
    for key, value in changes.items():
        old = merged.get(key)
        if isinstance(value, Mapping) and isinstance(old, Mapping) and _same_kind(old, value):
            merged[key] = merge(old, value)
        else:
            merged[key] = value
    return merged


def _same_kind(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    return "kind" not in new or old.get("kind") == new["kind"]
