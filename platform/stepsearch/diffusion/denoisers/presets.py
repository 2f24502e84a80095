"""Published sizes by name: a preset fills the fields that are not given."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import SerializerFunctionWrapHandler, model_serializer, model_validator

from stepsearch.config import Config


class Preset(Config):
    """Base of a config with a field `preset`; a subclass names its presets in that field's type.

    Written out, it is as it was given: the preset, and the fields that differ from it. So what a
    search lays over it may be another preset.
    """

    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]]
    """The fields of each preset."""

    preset: str | None = None

    @classmethod
    def _fields_of(cls, preset: Any) -> Mapping[str, Any]:
        return cls.PRESETS.get(preset, {}) if isinstance(preset, str) else {}

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        return {**cls._fields_of(data.get("preset")), **data}

    @model_serializer(mode="wrap")
    def _as_given(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        filled = self._fields_of(self.preset)
        return {
            name: value
            for name, value in write(self).items()
            if name not in filled or getattr(self, name) != filled[name]
        }
