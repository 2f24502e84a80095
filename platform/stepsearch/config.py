"""One base class for every configuration, and one-line messages for what is wrong with one."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)

from stepsearch.bucket import S3Url
from stepsearch.errors import UserError

C = TypeVar("C", bound="Config")

# What pydantic calls an error: the rule behind it, filled in from the error's context.
_RULES = {
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
    "dataclass_type": "a mapping",
    "path_type": "a path",
    "none_required": "null",
    "greater_than": "greater than {gt}",
    "greater_than_equal": "at least {ge}",
    "less_than": "less than {lt}",
    "less_than_equal": "at most {le}",
    "too_short": "a list of {min_length} or more",
    "too_long": "a list of {max_length} or fewer",
    "multiple_of": "a multiple of {multiple_of}",
    "string_too_short": "a string of {min_length} or more characters",
    "string_too_long": "a string of {max_length} or fewer characters",
    "string_pattern_mismatch": "a string that matches {pattern}",
    "literal_error": "one of {expected}",
    "union_tag_invalid": "one of {expected_tags}",
}

_SHOWN = 200
"""Characters of a value that an error shows."""


class Config(BaseModel):
    """A frozen configuration that refuses unknown keys; it lives beside the code it configures."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def _absolute(path: Path) -> Path:
    try:
        return path.expanduser().absolute()
    except RuntimeError:
        raise ValueError(f"there is no such user's home, got {str(path)!r}") from None


def _without_nul(value: Any) -> Any:
    if "\0" in str(value):
        raise ValueError(f"a path has no NUL character, got {value!r}")
    return value


AbsolutePath = Annotated[Path, BeforeValidator(_without_nul), AfterValidator(_absolute)]
"""A path that does not depend on where a process runs; `~` is the user's home."""


def path_or(parse: Callable[[str], Any]) -> Any:
    """The type of a path or an address: a text with `://` in it is what `parse` makes of it."""

    def read(value: Any, as_path: ValidatorFunctionWrapHandler) -> Any:
        is_address = isinstance(value, str) and "://" in value
        return parse(value) if is_address else as_path(value)

    as_text = PlainSerializer(str, when_used="json")
    return Annotated[AbsolutePath, WrapValidator(read), as_text]


if TYPE_CHECKING:
    Place = Path | S3Url
else:
    Place = path_or(S3Url.parse)
"""Where searches lie: a folder, or `s3://bucket/prefix`."""

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)]
"""Of a search, and so of its folder."""


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
    path, models = _locate(model, first["loc"])
    path = f"{where}.{path}".strip(".")
    kind, value, context = first["type"], first["input"], first.get("ctx", {})
    if kind in ("extra_forbidden", "unexpected_keyword_argument"):
        return _unknown_key(path, first["loc"], models)
    if kind == "missing":
        return f"{path} is required"
    if kind == "union_tag_not_found":
        return f"{path}.kind is required"
    if kind == "value_error":
        return _in_full(str(context["error"]), path, models)
    if kind == "union_tag_invalid":
        path, value = f"{path}.kind", context["tag"]
    if kind not in _RULES:
        return f"{path}: {first['msg']}, got {_short(value)}"
    numbers = {k: f"{v:g}" if isinstance(v, float) else v for k, v in context.items()}
    return f"{path} must be {_RULES[kind].format(**numbers)}, got {_short(value)}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _locate(
    model: type[BaseModel], loc: tuple[int | str, ...]
) -> tuple[str, list[type[BaseModel]]]:
    """The path as it stands in a file (pydantic's has unions' tags too), and the models there."""
    path, models = "", [model]
    for part in loc:
        fields = [m.model_fields[part].annotation for m in models if part in m.model_fields]
        tagged = [m for m in models if _has_kind(m, part)]
        if len(models) > 1 and tagged:
            models = tagged
            continue
        path += f"[{part}]" if isinstance(part, int) else f".{part}"
        if fields:
            models = [m for field in fields for m in _models(field)]
    return path.removeprefix("."), models


def _in_full(message: str, path: str, models: list[type[BaseModel]]) -> str:
    """The message of our own validator, its field named by the whole path."""
    field, _, rest = message.partition(" ")
    name = field.rpartition(".")[2]
    if path.rpartition(".")[2] == name:
        return f"{path} {rest}"
    if any(name in model.model_fields for model in models):
        return f"{path}.{name} {rest}".removeprefix(".")
    return f"{path}: {message}" if path else message


def _unknown_key(path: str, loc: tuple[int | str, ...], models: list[type[BaseModel]]) -> str:
    keys = sorted({key for model in models for key in model.model_fields})
    close = difflib.get_close_matches(str(loc[-1]), keys, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    known = f" (known keys: {', '.join(keys)})" if keys else ""
    return f"{path} is not a known key{hint}{known}"


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
